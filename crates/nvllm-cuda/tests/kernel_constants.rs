//! What `build/` reads of the kernels' files, on any machine: no GPU, no compiler of CUDA.

#[path = "../build/constants.rs"]
mod constants;
#[path = "../build/expr.rs"]
mod expr;
#[path = "../build/files.rs"]
mod files;
#[path = "../build/lexer.rs"]
mod lexer;
#[path = "../build/module.rs"]
mod module;

use expr::Names;
use module::module;

/// What the crate was built with.
const BUILT: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.rs"));

fn lines(text: &str) -> Vec<String> {
    let file = constants::read(text, |_| Names::new());
    file.items.into_iter().map(|(_, line)| line.trim_start_matches("pub(crate) ").to_owned()).collect()
}

#[test]
fn constants_functions_macros_and_enums_are_read() {
    let text = "constexpr int A = 0x10, B = 2 * A + 1;  // text\n\
                #define C 3 /* three */\n\
                constexpr bool WIDE = A > 2 && !(B == C);\n\
                constexpr int size(int rows, bool tight) {\n  return tight ? rows : A + rows * B % C;\n}\n\
                enum Flags { FIRST, SECOND, NINTH = 9, TENTH };\n\
                struct S { int a; };\n\
                constexpr int D = size(A, WIDE) / 2 - 1;\n";
    let expected = [
        "const A: usize = 16;",
        "const B: usize = ((2 * A) + 1);",
        "const C: usize = 3;",
        "const WIDE: bool = ((A > 2) && !(B == C));",
        "const fn size(rows: usize, tight: bool) -> usize { (if tight { rows } else { (A + ((rows * B) % C)) }) }",
        "const FIRST: usize = 0;",
        "const SECOND: usize = FIRST + 1;",
        "const NINTH: usize = 9;",
        "const TENTH: usize = NINTH + 1;",
        "const D: usize = ((size(A, WIDE) / 2) - 1);",
    ];
    assert_eq!(lines(text), expected);
}

/// Whoever names it in Rust is told by the compiler that it is not there.
#[test]
fn what_rust_cannot_say_or_know_is_left_out() {
    let others = [
        "constexpr int A = TIGHT ? 2 : 3;",
        "constexpr int A = -1;",
        "constexpr long A = 4ll;",
        "constexpr int A = 4ll;",
        "constexpr int A = 010;",
        "constexpr int A = 1.5;",
        "constexpr int A = (1 > 0) + 1;",
        "constexpr int A = sizeof(int);",
        "template <int N> constexpr int A = 2;",
        "template <int N> constexpr int a(int n) { return n; }",
        "DEVICE void f() { constexpr int A = 2; }",
        "struct S { static constexpr int A = 2; };",
        "constexpr int a(int n) { int m = n; return m; }",
        "#define A(n) 2",
        "#define A 2.0f",
        "#if X\n#define A 1\n#else\n#define A 2\n#endif",
        "// constexpr int A = 2;",
        "/* constexpr int A = 2; */",
        "const char* text = \"constexpr int A = 2;\";",
        "constexpr int A = B;",
        "constexpr int A",
    ];
    for text in others {
        assert_eq!(lines(text), [""; 0], "{text}");
        let followed = format!("{text};\nconstexpr int LAST = 1;");
        assert_eq!(lines(&followed), ["const LAST: usize = 1;"], "{text}");
    }
}

#[test]
fn what_a_file_includes_is_visible_in_it() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = [
        file("a/low.cuh", "constexpr int LOW = 1;"),
        file("b/high.cuh", "#include \"low.cuh\"\nconstexpr int HIGH = LOW + 1;"),
        file("b/kernel.cu", "#include \"high.cuh\"\nconstexpr int TOP = HIGH + LOW, STATIC_SHARED = TOP;"),
    ];
    let text = module(&files).unwrap();
    let kernel = text.split("mod kernel {").nth(1).unwrap();
    for line in
        ["use crate::kernels::a::low::*;", "use crate::kernels::b::high::*;", "TOP: usize = (HIGH + LOW);"]
    {
        assert!(kernel.contains(line), "{text}");
    }
    assert!(text.contains("&[(\"b/kernel.cu\", b::kernel::STATIC_SHARED),"), "{text}");
    let twice = [file("a/x.cu", ""), file("a/x.cuh", "")];
    assert_eq!(module(&twice).unwrap_err(), "two files are called a/x");
}

/// The kernels' files as they are.
fn kernels() -> Vec<(String, String)> {
    files::files(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap()
}

/// A number that is changed in a kernel's file is another one in the host's launch, and nowhere
/// else is one to be changed.
#[test]
fn the_host_has_the_kernels_numbers_and_no_others() {
    assert_eq!(module(&kernels()).unwrap(), BUILT);
    let planted = [
        ("linear/tensor_core.cu", "PITCH = 68", "PITCH = 72", "PITCH: usize = 72;"),
        ("linear/small_m.cu", "tight ? 4 : 6", "tight ? 4 : 5", "(if tight { 4 } else { 5 })"),
        ("linear/mid_m.cu", "TILE = 64, STAGES = 4", "TILE = 64, STAGES = 5", "STAGES: usize = 5;"),
        ("decode_pass/weight_ring.cuh", "MOST_PAIRS = 4", "MOST_PAIRS = 3", "MOST_PAIRS: usize = 3;"),
        ("linear/coded_few.cu", "STATIC_SHARED = 384", "STATIC_SHARED = 512", "STATIC_SHARED: usize = 512;"),
        ("sample/filter.cuh", "WORK_BYTES = 43056", "WORK_BYTES = 43064", "WORK_BYTES: usize = 43064;"),
    ];
    for (path, before, after, expected) in planted {
        let mut files = kernels();
        let (_, text) = files.iter_mut().find(|(known, _)| known == path).unwrap();
        assert_eq!(text.matches(before).count(), 1, "{path}: {before}");
        *text = text.replace(before, after);
        let changed = module(&files).unwrap();
        assert!(changed != BUILT && changed.contains(expected) && !BUILT.contains(expected), "{path}");
    }
}

/// Whether every kernel of `text` says how many threads a block of it has, or asks how many it has.
fn says_its_threads(text: &str) -> bool {
    text.split("__global__").skip(1).all(|kernel| {
        let (signature, body) = kernel.split_once('{').unwrap_or((kernel, ""));
        signature.contains("__launch_bounds__(") || body.contains("blockDim.x")
    })
}

#[test]
fn every_kernel_says_how_many_threads_a_block_has() {
    for (path, text) in kernels() {
        assert!(says_its_threads(&text), "{path}: give each kernel its __launch_bounds__");
    }
    let (bound, free) =
        ("__global__ void __launch_bounds__(32) a() { }", "__global__ void b() { blockDim.x; }");
    assert!(says_its_threads(bound) && says_its_threads(free) && says_its_threads(&[bound, free].concat()));
    assert!(!says_its_threads("__global__ void a() { threadIdx.x + 256 * i; }"));
    assert!(!says_its_threads(&["__global__ void a() { }", bound].concat()));
}
