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

import { runs } from "./places.mjs";

// By `require`, which looks in NODE_PATH, too.
const require = createRequire(import.meta.url);
const { componentize } = require("componentize-qjs");
const { build } = require("esbuild");

const PACKAGE = fileURLToPath(new URL(".", import.meta.url));
const HOOKS = ["onRequest", "onRequestBody", "selectUpstream", "onResponse", "onResponseBody", "onResponseTrailers", "onComplete"];
const PIECES = ["onRequestChunk", "onResponseChunk", "onResponseEvent"];
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
  const exports = ["configure", ...hooks];
  const outfile = join(place, "filter.js");
  const bundling = (first) =>
    bundled(
      first + entry(file, hooks.some((hook) => PIECES.includes(hook))) + exports.map((name) => `export const ${name} = all.${name};\n`).join(""),
      file,
      { external: ["sluice:*"], outfile, metafile: true, sourcemap: "external" },
    );
  let bundle = await bundling("");
  if (/\bMath\.random\b/.test(await readFile(outfile, "utf8"))) bundle = await bundling('import "sluice-filter/math-random";\n');
  const [, output] = Object.entries(bundle.metafile.outputs).find(([name]) => name.endsWith(".js"));
  const imports = output.imports.filter(({ external }) => external).map(({ path }) => path.replace("sluice:filter/", "").replace(/@.*/, ""));
  await cp(wit, join(place, "wit"), { recursive: true });
  const world = [...new Set(imports)].map((name) => `import ${name};`).concat(exports.map(kebab).map((name) => `export ${name};`));
  await writeFile(join(place, "wit", "component.wit"), `world component {\n${world.join("\n")}\n}\n`);
  // The package's own lines say nothing to who has written the filter.
  const places = runs(await readFile(`${outfile}.map`, "utf8"), (source) => !resolve(place, source).startsWith(PACKAGE));
  const js = `${await readFile(outfile, "utf8")}\nglobalThis.sluicePlaces = ${JSON.stringify(places)};\n`;
  const name = "sluice:filter/component";
  const made = await componentize({ witPath: join(place, "wit"), jsSource: js, world: name, sync: true, optSize: true });
  return made.component;
}

/** The exports of all hooks as `all`. The interface of pieces is imported only for filters with a hook of them. */
export function entry(file, pieces) {
  const [names, given] = pieces ? ['import { Chunk, Event } from "sluice-filter/chunk";\n', ", { Chunk, Event }"] : ["", ""];
  return `import Filter from ${JSON.stringify(file)};\nimport { component } from "sluice-filter/entry";\n${names}const all = component(Filter${given});\n`;
}

/** The hooks that the class has methods for, and whether it describes itself; found in Node with the double of the gateway. */
async function hooksOf(file, place) {
  const outfile = join(place, "hooks.mjs");
  await bundled(`export { default } from ${JSON.stringify(file)};`, file, { outfile, plugins: [double()] });
  const { default: Filter } = await import(pathToFileURL(outfile));
  if (typeof Filter?.prototype !== "object") throw new Error(`${basename(file)}: expected the class of a filter as its default export`);
  const known = [...HOOKS, ...PIECES];
  const methods = new Set();
  for (let of = Filter.prototype; of !== Object.prototype && of !== null; of = Object.getPrototypeOf(of)) {
    Object.getOwnPropertyNames(of).filter((name) => typeof Filter.prototype[name] === "function").forEach((name) => methods.add(name));
  }
  for (const name of methods) {
    if (/^on[A-Z]/.test(name) && !known.includes(name)) console.warn(`${basename(file)}: warning: no hook is called ${name}: the gateway will not call it`);
  }
  const hooks = known.filter((hook) => methods.has(hook));
  if (hooks.length === 0) {
    throw new Error(`${basename(file)}: the class has no method of a hook, such as onRequest (a property with an arrow function is none)`);
  }
  return Filter.describe === undefined ? hooks : [...hooks, "describe"];
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
