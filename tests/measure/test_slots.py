import pytest

from shoal.errors import ConfigError
from shoal.measure.slots import Slot, even_layout, kinds_of, local_layouts


def test_layouts_divide_the_cores_and_pin_as_running_does():
    assert [[slot.cores for slot in slots] for slots in local_layouts((0, 1))] == [[(0, 1)], [(0,), (1,)]]
    counts = [(len(slots), slots[0].threads) for slots in local_layouts(range(6))]
    assert counts == [(1, 6), (2, 3), (4, 1), (6, 1)]


def test_one_core_is_one_layout():
    assert local_layouts((3,)) == ((Slot(cores=(3,)),),)


def test_a_worker_without_a_core_is_refused():
    with pytest.raises(ConfigError, match="3 workers"):
        even_layout((0, 1), 3)
    with pytest.raises(ConfigError, match="core"):
        Slot(cores=())


@pytest.mark.parametrize("quota", [0.0, -1.0, 1.1])
def test_a_quota_out_of_range_is_refused(quota):
    with pytest.raises(ConfigError, match="quota"):
        Slot(cores=(0,), cpu_quota=quota)


def test_slots_of_as_many_threads_and_the_same_quota_are_alike():
    slots = (Slot(cores=(0,)), Slot(cores=(1,), cpu_quota=0.5), Slot(cores=(2,)), Slot(cores=(3, 4)))
    assert kinds_of(slots) == [slots[0], slots[1], slots[3]]
    assert [str(slot) for slot in kinds_of(slots)] == ["1 thread", "1 thread at 50%", "2 threads"]
