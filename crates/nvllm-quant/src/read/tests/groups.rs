//! Several groups of compressed-tensors: whose a module is, and what is refused.

use nvllm_core::weight::{ActQuant, Code};

use super::*;

/// Groups of 4-bit weights and of 8-bit ones with 8-bit inputs, with these targets.
fn two(int4_targets: &[&str], int8_targets: &[&str]) -> Value {
    let channel = json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true});
    let token =
        json!({"num_bits": 8, "type": "int", "strategy": "token", "symmetric": true, "dynamic": true});
    json!({
        "quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ["dense"],
        "config_groups": {
            "a": {"targets": int4_targets, "format": "pack-quantized", "weights": int4(8, true)},
            "b": {"targets": int8_targets, "format": "int-quantized", "weights": channel, "input_activations": token},
        },
    })
}

fn with_int4(files: Files, name: &str) -> Files {
    let extents = [16_i64, 16].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    files
        .words(&format!("{name}.weight_packed"), &[16, 2], &[0x7654_3210; 32])
        .with(&format!("{name}.weight_shape"), "I64", &[2], extents)
        .bf16s(&format!("{name}.weight_scale"), &[16, 2], &[1.0; 32])
}

fn with_int8(files: Files, name: &str) -> Files {
    files.with(&format!("{name}.weight"), "I8", &[2, 8], [1; 16]).bf16s(
        &format!("{name}.weight_scale"),
        &[2, 1],
        &[1.0; 2],
    )
}

/// `x.q` and `y.q` in 4 bits, `x.o` in 8.
fn files() -> Files {
    let files = Files::default().bf16s("dense.weight", &[1, 2], &[1.0, 2.0]);
    with_int8(with_int4(with_int4(files, "x.q"), "y.q"), "x.o")
}

#[test]
fn a_module_is_of_the_group_with_the_most_specific_target() {
    for (int4_targets, int8_targets) in [
        // A name or a pattern before a class, a name before a pattern; of a group any target.
        (&["Linear"][..], &["x.o"][..]),
        (&["Linear"], &["re:.*[.]o$"]),
        (&["x.q", "y.q"], &["Linear"]),
        (&["re:.*q", "x.q"], &["re:x[.]o", "Linear"]),
        (&["re:.*"], &["x.o"]),
        (&["re:.*q"], &["re:x.o", "x.o", "dense"]),
    ] {
        let source = read(&two(int4_targets, int8_targets), &files())
            .unwrap_or_else(|e| panic!("{int4_targets:?}, {int8_targets:?}: {e}"));
        assert_eq!(source.names(), ["dense.weight", "x.o.weight", "x.q.weight", "y.q.weight"]);
        for (name, code, act) in [
            ("x.q.weight", Code::U4, None),
            ("y.q.weight", Code::U4, None),
            ("x.o.weight", Code::I8, Some(ActQuant::DynTokenI8)),
        ] {
            let info = source.info(name).unwrap();
            assert_eq!((info.format.code, info.format.act), (code, act), "{name}");
            let tensor = source.tensor(name).unwrap();
            tensor.check(name).unwrap();
            assert_eq!(tensor.info(), info);
        }
        assert!(source.info("dense.weight").unwrap().format.plain().is_some());
    }
}

#[test]
fn an_embedding_is_of_its_class() {
    let table = "model.embed_tokens";
    let files = with_int8(with_int4(Files::default(), "x.q"), table);
    let source = read(&two(&["Linear"], &["Embedding"]), &files).unwrap();
    assert_eq!(source.info("model.embed_tokens.weight").unwrap().format.code, Code::I8);
    let message = refused(&two(&["Embedding"], &["Linear"]), &files);
    assert!(message.contains("is coded without its `model.embed_tokens.weight_shape`"), "{message}");
}

#[test]
fn targets_that_overlap_or_match_nothing_are_named() {
    for (int4_targets, int8_targets, words) in [
        (
            &["Linear"][..],
            &["Linear"][..],
            "`x.o.weight`: is of two groups: `Linear` in `quantization_config.config_groups.a.targets` and `Linear` in \
             `quantization_config.config_groups.b.targets` match it alike",
        ),
        (&["re:x.*", "y.q"], &["re:.*o"], "`x.o.weight`: is of two groups: `re:x.*` in"),
        (&["x.q", "y.q"], &["x.o", "y.q"], "`y.q.weight`: is of two groups: `y.q` in"),
        (
            &["Linear"],
            &["x.o", "z.o"],
            "config_groups.b.targets` has `z.o`, which no module of the checkpoint",
        ),
        (&["Linear", "re:x$"], &["x.o"], "config_groups.a.targets` has `re:x$`, which no module"),
        (&["Linear"], &["x.o", "LinearBase"], "config_groups.b.targets` has `LinearBase`, which no module"),
        (&["x.q"], &["x.o"], "`y.q.weight`: is coded, and no target of `config_groups` is its name"),
        (&[], &["x.o"], "`x.q.weight`: is coded, and no target of `config_groups`"),
        // Coded as the other group says.
        (&["Linear"], &["x.q"], "`x.o.weight`: is coded without its `x.o.weight_shape`"),
    ] {
        let message = refused(&two(int4_targets, int8_targets), &files());
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
}

#[test]
fn parts_are_those_of_the_module_s_group() {
    let config = two(&["Linear"], &["x.o"]);
    for (files, words) in [
        (
            files().with("z.weight_zero_point", "I8", &[2, 1], [0; 2]),
            "`z.weight_zero_point`: belongs to `z.weight_packed`, which is missing",
        ),
        (
            files().with("z.weight", "I8", &[2, 2], [0; 4]),
            "`z.weight`: has dtype I8 and no `z.weight_packed`",
        ),
        (
            files().with("z.qweight", "I32", &[1, 1], [0; 4]),
            "`z.qweight`: is no part of a weight as compressed",
        ),
        (
            with_int8(files(), "dense"),
            "`dense.weight`: is coded, though config.json has it among the modules",
        ),
    ] {
        let message = refused(&config, &files);
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
}
