//! The suite bites: every planted fault is caught, and the case that caught it is listed.

use nvllm_conformance::faults::bite;
use nvllm_conformance::{CASES, Settings};
use nvllm_core::Op;

#[test]
fn every_planted_fault_is_caught() {
    // Without shrinking: the first counterexample will do.
    let bites = bite(&Settings { max_shrink_iters: 0, ..Settings::default() });
    println!("| fault | caught by |\n|---|---|");
    for (fault, caught) in &bites {
        println!("| {fault} | {} |", caught.as_ref().map_or("NOTHING", |(case, _)| case));
    }
    for (fault, caught) in &bites {
        if let Some((_, said)) = caught {
            println!("{fault}: {said}");
        }
    }
    let missed: Vec<_> =
        bites.iter().filter(|(_, caught)| caught.is_none()).map(|(f, _)| f.to_string()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn every_op_has_a_case() {
    for stem in Op::STEMS {
        assert!(CASES.iter().any(|case| case.name == stem), "no case is called `{stem}`");
    }
}
