//! The chat page in a browser, where there is one: `crates/nvllm-serve/tests/clients/page.sh`.

use std::path::Path;
use std::process::Command;

/// What the script needs.
const PROGRAMS: [&str; 4] = ["bash", "chromium", "node", "npm"];

/// The script's status where npm's packages cannot be had.
const NO_PACKAGES: i32 = 75;

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn the_page_does_in_a_browser_what_its_documents_say() {
    if let Some(missing) = PROGRAMS.into_iter().find(|program| !is_here(program)) {
        return println!("skipped: {missing} is not here");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nvllm-serve/tests/clients/page.sh");
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let run = || {
        Command::new("bash").arg(&script).arg(env!("CARGO_BIN_EXE_nvllm")).arg(&packages).output().unwrap()
    };
    let mut output = run();
    if !output.status.success() && output.status.code() != Some(NO_PACKAGES) {
        // On a busy machine a browser may be late once; what is broken fails again.
        println!("the first run: {}", String::from_utf8_lossy(&output.stdout));
        output = run();
    }
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(NO_PACKAGES) {
        return println!("skipped: {said}");
    }
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
