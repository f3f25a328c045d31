// Builds the page into the package: one script, one style sheet, the page itself and the licenses of what is in them.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const OUT = "../src/shoal/server/web/assets";
const BUNDLED = ["preact", "@preact/signals", "@preact/signals-core", "marked"];

mkdirSync(OUT, { recursive: true });
await build({
  entryPoints: { app: "src/main.tsx" },
  outdir: OUT,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  legalComments: "none",
  logLevel: "warning",
});
await build({ entryPoints: { app: "src/style.css" }, outdir: OUT, bundle: true, minify: true, target: ["es2022"] });
for (const file of ["index.html", "icon.svg"]) copyFileSync(join("src", file), join(OUT, file));
writeFileSync(join(OUT, "licenses.txt"), BUNDLED.map(license).join("\n"));
writeFileSync(join(OUT, "sources.sha256"), sources());

/** A package's name, version and license, as its own files say them. */
function license(name) {
  const folder = join("node_modules", name);
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = ["LICENSE", "LICENSE.md", "license"].find((one) => existsSync(join(folder, one)));
  return `${name} ${version}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
}

/** What the page was built from, a line a file as `sha256sum` writes it: a test compares it with the tree. */
function sources() {
  const files = ["build.mjs", "package-lock.json", ...readdirSync("src").map((name) => `src/${name}`)].sort();
  const hash = (name) => createHash("sha256").update(readFileSync(name)).digest("hex");
  return files.map((name) => `${hash(name)}  ${name}\n`).join("");
}
