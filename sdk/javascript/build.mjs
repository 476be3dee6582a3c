#!/usr/bin/env node
// sluice-filter build FILE… [--out DIR] [--wit DIR]: makes a component of each file, named as the file is.
//
// A file's default export is the class of a filter. The component's world has the hooks that the class has methods for, and imports what the
// bundle uses: a filter that never waits is not called as one that may.
import { realpathSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, join, parse, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

// By `require`, which looks in NODE_PATH, too.
const require = createRequire(import.meta.url);
const { componentize } = require("componentize-qjs");
const { build } = require("esbuild");

const PACKAGE = fileURLToPath(new URL(".", import.meta.url));
const HOOKS = ["onRequest", "onRequestBody", "selectUpstream", "onResponse", "onResponseBody", "onResponseTrailers", "onComplete"];
const kebab = (name) => name.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase());

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { out: { type: "string", default: "build" }, wit: { type: "string", default: join(PACKAGE, "../../wit") } },
  });
  const [command, ...files] = positionals;
  if (command !== "build" || files.length === 0) throw new Error("usage: sluice-filter build FILE… [--out DIR] [--wit DIR]");
  await mkdir(values.out, { recursive: true });
  for (const file of files) {
    const out = join(values.out, `${parse(file).name}.wasm`);
    const place = await mkdtemp(join(tmpdir(), "sluice-filter-"));
    try {
      await writeFile(out, await component(resolve(file), values.wit, place));
    } finally {
      await rm(place, { recursive: true });
    }
    console.log(`${out}`);
  }
}

async function component(file, wit, place) {
  const hooks = await hooksOf(file, place);
  const source =
    `import Filter from ${JSON.stringify(file)};\nimport { component } from "sluice-filter/entry";\n` +
    `const all = component(Filter);\nexport const configure = all.configure;\n` +
    hooks.map((hook) => `export const ${hook} = all.${hook};\n`).join("");
  const bundle = await bundled(source, file, { external: ["sluice:*"], outfile: join(place, "filter.js"), metafile: true });
  const [output] = Object.values(bundle.metafile.outputs);
  const imports = output.imports.filter(({ external }) => external).map(({ path }) => path.replace("sluice:filter/", "").replace(/@.*/, ""));
  await cp(wit, join(place, "wit"), { recursive: true });
  const world = [...new Set(imports)].map((name) => `import ${name};`).concat(["configure", ...hooks.map(kebab)].map((name) => `export ${name};`));
  await writeFile(join(place, "wit", "component.wit"), `world component {\n${world.join("\n")}\n}\n`);
  const js = await readFile(join(place, "filter.js"), "utf8");
  const name = "sluice:filter/component";
  const made = await componentize({ witPath: join(place, "wit"), jsSource: js, world: name, sync: true, optSize: true });
  return made.component;
}

/** The hooks that the class has methods for, found in Node with the double of the gateway. */
async function hooksOf(file, place) {
  const outfile = join(place, "hooks.mjs");
  await bundled(`export { default } from ${JSON.stringify(file)};`, file, { outfile, plugins: [double()] });
  const { default: Filter } = await import(pathToFileURL(outfile));
  if (typeof Filter?.prototype !== "object") throw new Error(`${basename(file)}: expected the class of a filter as its default export`);
  const hooks = HOOKS.filter((hook) => typeof Filter.prototype[hook] === "function");
  if (hooks.length === 0) throw new Error(`${basename(file)}: the class has no method of a hook, such as onRequest`);
  return hooks;
}

export function bundled(contents, file, more) {
  return build({
    stdin: { contents, resolveDir: parse(file).dir, sourcefile: "component.js" },
    alias: { "sluice-filter": PACKAGE.replace(/\/$/, "") },
    bundle: true, format: "esm", target: "es2022", platform: "neutral", mainFields: ["module", "main"], conditions: ["import"],
    logLevel: "error", ...more,
  });
}

/** Puts the double in place of the gateway's interfaces. */
export function double() {
  return {
    name: "double",
    setup(build) {
      build.onResolve({ filter: /^sluice:filter\// }, ({ path }) => ({ path, namespace: "double" }));
      build.onLoad({ filter: /.*/, namespace: "double" }, ({ path }) => {
        const name = path.replace("sluice:filter/", "").replace(/@.*/, "");
        return { contents: `module.exports = globalThis.sluiceDouble?.(${JSON.stringify(name)}) ?? {};`, loader: "js" };
      });
    },
  };
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    // esbuild has shown its errors.
    if (!error.errors) console.error(error.message ?? error);
    process.exitCode = 1;
  });
}
