"""Files that people try graphs with: pictures, sound, arrays, and what chains take."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from shoal.chains.definition import parse_chain
from tests.server.oip.fakes import doubler, planes
from tests.server.oip.running import run_server
from tests.server.web.plans import page as page_options

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FUNCTIONS = """
def describe(image, note):
    return f"{note}: {image.shape[1]} x {image.shape[0]}, red {image[0, 0, 0]}"
"""


def run(tab: Page, name: str) -> Locator:
    tab.get_by_role("button", name="Run").click()
    output = tab.get_by_role("region", name=f"Output {name}")
    output.wait_for()
    return output


def saved(tab: Page, output: Locator) -> np.ndarray:
    with tab.expect_download() as file:
        output.get_by_role("button", name="Save as .npy").click()
    return np.load(file.value.path())


def test_a_picture_is_scaled_to_the_input(tab: Page, tmp_path: Path) -> None:
    """Left half red, right half green, of another size than the graph takes."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "two.png")
    with run_server({"planes": planes}, page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        tab.get_by_label("Picture, sound or .npy").set_input_files(tmp_path / "two.png")
        whole = saved(tab, run(tab, "same"))
        assert whole.shape == (1, 3, 8, 16)
        np.testing.assert_allclose(whole[0, :, :, 0], np.repeat([[1.0], [0.0], [0.0]], 8, 1))
        np.testing.assert_allclose(whole[0, :, :, -1], np.repeat([[0.0], [1.0], [0.0]], 8, 1))
        tab.get_by_role("combobox", name="Values").select_option("ImageNet")
        scaled = saved(tab, run(tab, "same"))
    np.testing.assert_allclose(scaled[0, :, 0, 0], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-5)


def test_sound_is_cut_to_the_input(tab: Page, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "half.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.full(16_000, 1 << 14, np.int16).tobytes())
    with run_server({"doubler": doubler}, page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        x = tab.get_by_role("group", name="x FP32")
        x.get_by_label("Picture, sound or .npy").set_input_files(tmp_path / "half.wav")
        tab.get_by_role("group", name="ids INT64").get_by_label("numbers").fill("7, 8")
        np.testing.assert_allclose(saved(tab, run(tab, "y")), [[1.0] * 4], rtol=1e-3)
        assert "7, 8" in tab.get_by_role("region", name="Output z").inner_text()
        tab.get_by_role("group", name="ids INT64").get_by_label("numbers").fill("seven")
        tab.get_by_role("button", name="Run").click()
        tab.get_by_role("alert").get_by_text("not all of these are numbers").wait_for()


def test_files_that_are_not_what_they_say(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "no.npy").write_bytes(b"nothing of the kind")
    (tmp_path / "no.png").write_bytes(b"nor this")
    np.save(tmp_path / "objects.npy", np.array(["text"]))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.ones((2, 4), np.float32)))
    whole = (tmp_path / "fortran.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole.replace(b"True", b"False")[:-4])
    said = {
        "no.npy": "not a .npy file",
        "no.png": "could not be decoded",
        "objects.npy": "cannot be sent",
        "fortran.npy": "Fortran order",
        "cut.npy": "size does not match its header",
    }
    with run_server({"planes": planes}, page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        for name, problem in said.items():
            tab.get_by_label("Picture, sound or .npy").set_input_files(tmp_path / name)
            tab.get_by_role("button", name="Run").click()
            tab.get_by_role("alert").get_by_text(problem).wait_for()


def test_a_chain_takes_a_picture_and_a_text(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTIONS)
    steps = [{"call": "f.py:describe", "inputs": ["image", "note"], "outputs": ["told"]}]
    data = {"name": "describe", "inputs": {"image": "image", "note": "text"}, "steps": steps, "outputs": ["told"]}
    chain = parse_chain(data, tmp_path / "chain.yaml")
    Image.new("RGB", (40, 30), (9, 0, 0)).save(tmp_path / "p.png")
    with run_server({"doubler": doubler}, chains=[chain], page=page_options()) as running:
        tab.goto(f"{running.url}/#try")
        tab.get_by_label("Model or chain").select_option("describe")
        tab.get_by_label("Picture, sound or .npy").set_input_files(tmp_path / "p.png")
        tab.get_by_label("Text").fill("<i>Ein Bild</i>, schön")
        assert "<i>Ein Bild</i>, schön: 40 x 30, red 9" in run(tab, "told").inner_text()
