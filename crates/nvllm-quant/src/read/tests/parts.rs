//! Tensors that do not fit each other, or the configuration.

use super::*;

/// A module `m` of each scheme that is read, its configuration, and the parts that it may lack.
fn all() -> Vec<(Value, Files, &'static [&'static str])> {
    let n = 16;
    let extents = [16_i64, 16].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let act_order = Files::default()
        .words("m.qweight", &[2, n], &[0x7654_3210; 32])
        .words("m.qzeros", &[2, 2], &[0; 4])
        .f16s("m.scales", &[2, n], &[1.0; 32])
        .words("m.g_idx", &[16], &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let awq_files = Files::default()
        .words("m.qweight", &[16, 2], &[0x7654_3210; 32])
        .words("m.qzeros", &[2, 2], &[0; 4])
        .f16s("m.scales", &[2, n], &[1.0; 32]);
    let state = br#"{"quant_type": "nf4", "blocksize": 64, "shape": [2, 64]}"#;
    let nf4_files = Files::default()
        .with("m.weight", "U8", &[64, 1], [0x12; 64])
        .f32s("m.weight.quant_map", &[16], nvllm_core::weight::Table::Nf4.values())
        .with("m.weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], *state)
        .f32s("m.weight.absmax", &[2], &[1.0, 3.0]);
    let int8_files = Files::default().with("m.weight", "I8", &[2, 8], [1; 16]).f32s("m.SCB", &[2], &[1.0; 2]);
    let weights = json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true});
    let inputs =
        json!({"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": true, "dynamic": false});
    let w8a8_files = Files::default()
        .with("m.weight", "I8", &[2, 8], [1; 16])
        .bf16s("m.weight_scale", &[2, 1], &[1.0; 2])
        .bf16s("m.input_scale", &[1], &[0.5]);
    let packed_files = Files::default()
        .words("m.weight_packed", &[16, 2], &[0x7654_3210; 32])
        .with("m.weight_shape", "I64", &[2], extents)
        .words("m.weight_zero_point", &[2, 2], &[0x8888_8888; 4])
        .bf16s("m.weight_scale", &[16, 2], &[1.0; 32]);
    let fp8_files = Files::default().with("m.weight", "F8_E4M3", &[2, 200], [0x38; 400]).f32s(
        "m.weight_scale_inv",
        &[1, 2],
        &[1.0; 2],
    );
    vec![
        (gptq(4, 8, "gptq", false), act_order, &["m.g_idx"]),
        (awq(8), awq_files, &[]),
        (nf4(), nf4_files, &[]),
        (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), int8_files, &[]),
        (compressed("int-quantized", &weights, &inputs), w8a8_files, &[]),
        (compressed("pack-quantized", &int4(8, false), &Value::Null), packed_files, &[]),
        (fp8_blocks(), fp8_files, &[]),
    ]
}

#[test]
fn a_part_that_is_missing_is_named() {
    for (config, files, optional) in all() {
        values(&config, &files);
        for name in files.names() {
            let mut files = files.clone();
            files.0.remove(&name);
            if optional.contains(&&*name) {
                values(&config, &files);
                continue;
            }
            let message = refused(&config, &files);
            assert!(message.contains(&format!("`{name}`")), "without {name}: {message}");
            assert!(message.contains("`m."), "{message}");
        }
    }
}

/// Another extent, another type, fewer bytes than the shape takes: an error that names the tensor
/// or its weight, and never a weight of other bytes than were announced.
#[test]
fn a_part_of_another_shape_or_type_is_refused() {
    for (config, files, _) in all() {
        for name in files.names() {
            let check = |what: &str, change: &dyn Fn(&mut RawTensor)| {
                let mut files = files.clone();
                change(files.0.get_mut(&name).unwrap());
                match read(&config, &files)
                    .and_then(|source| source.tensor("m.weight").map(|tensor| (source, tensor)))
                {
                    Ok((source, tensor)) => {
                        tensor.check("m.weight").unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
                        assert_eq!(tensor.info(), source.info("m.weight").unwrap(), "{name}, {what}");
                    }
                    Err(error) => assert!(error.to_string().contains("`m."), "{name}, {what}: {error}"),
                }
            };
            for axis in 0..2 {
                for extent in [0, 1, 7, 1 << 40] {
                    check(&format!("extent {axis} of {extent}"), &|raw| {
                        raw.shape.iter_mut().skip(axis).take(1).for_each(|old| *old = extent);
                    });
                }
            }
            check("a vector", &|raw| raw.shape = vec![raw.shape.iter().product()]);
            check("a scalar", &|raw| raw.shape = Vec::new());
            check("cut", &|raw| raw.bytes = raw.bytes.slice(..raw.bytes.len() - 1));
            check("empty", &|raw| raw.bytes = raw.bytes.slice(..0));
            for dtype in ["F64", "I32", "U8", "I8", "F16", "F32", "F8_E5M2"] {
                check(dtype, &|raw| raw.dtype = dtype.into());
            }
        }
    }
}

#[test]
fn sizes_that_do_not_divide_are_named() {
    let [gptq_files, awq_files, _, _, _, packed, _]: [_; 7] = all().try_into().unwrap();
    for (config, files, words) in [
        (
            gptq(4, 16, "gptq", false),
            &gptq_files.1,
            "`m.scales`: has shape [2, 16] where [1, 16] is needed: 16 columns in groups",
        ),
        (awq(16), &awq_files.1, "`m.scales`: has shape [2, 16] where [1, 16] is needed"),
        (awq(24), &awq_files.1, "`m.weight`: has 16 columns, which groups of 24 do not divide"),
        (
            compressed("pack-quantized", &int4(24, false), &Value::Null),
            &packed.1,
            "16 columns, which groups of 24 do not",
        ),
        (
            compressed("pack-quantized", &int4(16, false), &Value::Null),
            &packed.1,
            "`m.weight_scale`: has shape [16, 2] where [16, 1]",
        ),
    ] {
        let message = refused(&config, files);
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
    let state = br#"{"quant_type": "nf4", "blocksize": 64, "shape": [4, 32]}"#;
    let (config, files, _) = all().swap_remove(2);
    let crossing = files.clone().with("m.weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], *state);
    let message = refused(&config, &crossing);
    assert!(message.contains("has 32 columns, which runs of 64 do not divide"), "{message}");
    let mut map = *nvllm_core::weight::Table::Nf4.values();
    map[3] = -0.39;
    let message = refused(&config, &files.f32s("m.weight.quant_map", &[16], &map));
    assert!(message.contains("`m.weight.quant_map`: is not the table of nf4"), "{message}");
}

#[test]
fn schemes_are_not_mixed_and_lists_are_kept() {
    let (config, files, _) = all().swap_remove(4);
    let with = |name: &str, dtype: &str| files.clone().with(name, dtype, &[2, 2], [0; 4]);
    for (files, words) in [
        (
            with("o.weight_packed", "I32"),
            "`o.weight_packed`: is no part of a weight as compressed-tensors codes it; one scheme",
        ),
        (with("o.qweight", "I32"), "`o.qweight`: is no part of a weight as compressed-tensors"),
        (with("o.weight.absmax", "F32"), "`o.weight.absmax`: is no part"),
        (
            with("o.weight_zero_point", "I8"),
            "`o.weight_zero_point`: belongs to `o.weight_scale`, which is missing",
        ),
        (with("o.weight", "I8"), "`o.weight`: has dtype I8 and no `o.weight_scale`"),
        (with("o.weight", "F8_E4M3"), "`o.weight`: has dtype F8_E4M3 and no `o.weight_scale`"),
    ] {
        let message = refused(&config, &files);
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
    let mut listed = config.clone();
    listed["ignore"] = json!(["lm_head", "re:m$"]);
    let message = refused(&listed, &files);
    assert!(
        message.contains("`m.weight`: is coded, though config.json has it among the modules"),
        "{message}"
    );
    let (config, files, _) = all().swap_remove(0);
    let message = refused(&config, &files.f16s("m.weight", &[2, 2], &[0.0; 4]));
    assert!(message.contains("`m.weight`: is there twice, coded and not"), "{message}");
    // A symmetric weight that is not, and inputs whose zero is not 0.
    let (config, files, _) = all().swap_remove(4);
    for name in ["m.weight_zero_point", "m.input_zero_point"] {
        let points = |value: u8| files.clone().with(name, "I8", &[2, 1], [0, value]);
        values(&config, &points(0));
        let message = refused(&config, &points(3));
        assert!(
            message.contains(&format!("`{name}`: is not 0 where the configuration says symmetric")),
            "{message}"
        );
    }
    let message = refused(&config, &files.bf16s("m.input_scale", &[1], &[-1.0]));
    assert!(message.contains("`m.input_scale`: is -1; a finite number above 0 is needed"), "{message}");
}

#[test]
fn what_is_not_coded_stays_as_it_is() {
    for (config, files, _) in all() {
        let files = files.bf16s("lm_head.weight", &[1, 2], &[1.0, 2.0]).f32s("m.bias", &[2], &[3.0, 4.0]);
        let source = read(&config, &files).unwrap();
        assert_eq!(source.names(), ["lm_head.weight", "m.bias", "m.weight"]);
        assert_eq!(source.info("lm_head.weight").unwrap().format.plain(), Some(DType::Bf16));
        assert_eq!(source.tensor("m.bias").unwrap().codes, files.raw("m.bias").unwrap().bytes);
        assert!(source.info("m.weight").unwrap().format.plain().is_none());
    }
    let dense = HfConfig::parse(b"{}").unwrap();
    let files = Files::default().bf16s("m.weight", &[1, 2], &[1.0, 2.0]);
    assert_eq!(super::super::weights(&dense, files.clone()).unwrap().names(), ["m.weight"]);
    let message =
        super::super::weights(&dense, files.words("m.qweight", &[1, 1], &[0])).err().unwrap().to_string();
    let words = "`quantization_config` is missing, and `m.qweight` is a part of a quantised weight; gptq";
    assert!(message.contains(words), "{message}");
}
