//! What a configuration may say.

use super::super::Quantization;
use super::*;

/// The configuration with fields of another value, each by its path of names.
fn with(mut config: Value, changes: &[(&str, Value)]) -> Value {
    for (path, value) in changes {
        let place = path.split('.').fold(&mut config, |object, name| &mut object[name]);
        *place = value.clone();
    }
    config
}

fn message(quantization: &Value) -> String {
    Quantization::of(&config(quantization))
        .err()
        .unwrap_or_else(|| panic!("{quantization} is read"))
        .to_string()
}

fn w8a8() -> Value {
    let weights =
        json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true, "dynamic": false});
    let inputs =
        json!({"num_bits": 8, "type": "int", "strategy": "token", "symmetric": true, "dynamic": true});
    compressed("int-quantized", &weights, &inputs)
}

#[test]
fn every_scheme_is_known_by_its_method() {
    for (quantization, method) in [
        (gptq(4, 128, "gptq", true), "gptq"),
        (with(awq(64), &[("version", "GEMM".into())]), "awq"),
        (nf4(), "bitsandbytes"),
        (json!({"load_in_8bit": true}), "bitsandbytes"),
        (w8a8(), "compressed-tensors"),
        (compressed("pack-quantized", &int4(128, true), &Value::Null), "compressed-tensors"),
        (fp8_blocks(), "fp8"),
    ] {
        let known =
            Quantization::of(&config(&quantization)).unwrap_or_else(|e| panic!("{quantization}: {e}"));
        assert_eq!(known.unwrap().method(), method);
    }
    // The older place of compressed-tensors.
    let older = HfConfig::parse(json!({"compression_config": w8a8()}).to_string().as_bytes()).unwrap();
    assert_eq!(Quantization::of(&older).unwrap().unwrap().method(), "compressed-tensors");
    for none in [json!({}), json!({"quantization_config": null}), json!({"quantization_config": {}})] {
        assert!(Quantization::of(&HfConfig::parse(none.to_string().as_bytes()).unwrap()).unwrap().is_none());
    }
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    let g = || gptq(4, 128, "gptq", false);
    for (quantization, words) in [
        (
            json!({"quant_method": "hqq"}),
            "quantization_config.quant_method` is \"hqq\"; gptq (4 and 8 bits), awq",
        ),
        (json!({"bits": 4}), "quant_method` is missing; gptq (4 and 8 bits)"),
        (json!({"quant_method": 7}), "quant_method` is 7; a string is needed"),
        (with(g(), &[("bits", 3.into())]), "bits` is 3; 4 and 8 are supported"),
        (with(g(), &[("bits", "4".into())]), "bits` is \"4\"; an integer is needed"),
        (with(g(), &[("group_size", 0.into())]), "group_size` is 0; multiples of 8, and -1"),
        (with(g(), &[("group_size", Value::Null)]), "group_size` is missing; multiples of 8"),
        (with(g(), &[("group_size", (-2).into())]), "group_size` is -2; multiples of 8"),
        (
            with(g(), &[("checkpoint_format", "marlin".into())]),
            "checkpoint_format` is \"marlin\"; gptq and gptq_v2",
        ),
        (with(g(), &[("is_marlin_format", true.into())]), "is_marlin_format` is true; gptq and gptq_v2"),
        (with(g(), &[("pack_dtype", "int8".into())]), "pack_dtype` is \"int8\"; int32 is supported"),
        (with(g(), &[("desc_act", 1.into())]), "desc_act` is 1; true or false is needed"),
        (
            with(g(), &[("dynamic", json!({"+:.*down.*": {"bits": 8}}))]),
            "dynamic` has settings for `+:.*down.*`",
        ),
        (with(awq(64), &[("bits", 8.into())]), "bits` is 8; 4 is supported"),
        (with(awq(64), &[("version", "gemv".into())]), "version` is \"gemv\"; gemm is supported"),
        (with(awq(64), &[("zero_point", false.into())]), "zero_point` is false; true is supported"),
        (
            with(nf4(), &[("load_in_8bit", true.into())]),
            "load_in_4bit` is true; one of load_in_4bit and load_in_8bit",
        ),
        (
            with(nf4(), &[("bnb_4bit_quant_type", "int4".into())]),
            "bnb_4bit_quant_type` is \"int4\"; nf4 and fp4",
        ),
        (with(fp8_blocks(), &[("fmt", "e5m2".into())]), "fmt` is \"e5m2\"; e4m3 is supported"),
        (with(fp8_blocks(), &[("scale_fmt", "ue8m0".into())]), "scale_fmt` is \"ue8m0\"; float is supported"),
        (
            with(fp8_blocks(), &[("weight_block_size", json!([64, 64]))]),
            "weight_block_size` is [64,64]; [128, 128]",
        ),
        (with(fp8_blocks(), &[("activation_scheme", "static".into())]), "blocks run on dynamic inputs"),
        (
            with(fp8_blocks(), &[("activation_scheme", "none".into())]),
            "is \"none\"; dynamic and static are supported",
        ),
    ] {
        let message = message(&quantization);
        assert!(message.contains("config.json: `quantization_config."), "{message}");
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
    let other = HfConfig::parse(br#"{"quantization_config": "gptq"}"#).unwrap();
    assert!(
        Quantization::of(&other).unwrap_err().to_string().contains("`quantization_config` is not an object")
    );
    let mlx =
        HfConfig::parse(br#"{"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}"#).unwrap();
    let message = Quantization::of(&mlx).unwrap_err().to_string();
    assert!(message.contains("`quantization` is how MLX says it; gptq (4 and 8 bits)"), "{message}");
}

#[test]
fn schemes_of_compressed_tensors_that_are_not_read_are_named() {
    const W: &str = "config_groups.group_0.weights";
    let packed = || compressed("pack-quantized", &int4(128, true), &Value::Null);
    let at = |place: &str, field: &str| format!("{place}.{field}");
    for (quantization, words) in [
        (
            with(w8a8(), &[("format", "marlin-24".into())]),
            "format` is \"marlin-24\"; int-quantized, float-quantized",
        ),
        (with(w8a8(), &[("format", Value::Null)]), "format` is missing; int-quantized"),
        (with(w8a8(), &[("config_groups", json!({}))]), "config_groups` is {}; one group is needed"),
        (with(w8a8(), &[("config_groups", Value::Null)]), "config_groups` is missing; it is needed"),
        (
            with(w8a8(), &[("transform_config", json!({"R1": {}}))]),
            "transform_config` is {\"R1\":{}}; transforms",
        ),
        (with(w8a8(), &[("sparsity_config", json!({"format": "sparse-24-bitmask"}))]), "dense is supported"),
        (
            with(w8a8(), &[("config_groups.group_0.output_activations", json!({"num_bits": 8}))]),
            "quantised outputs",
        ),
        (with(w8a8(), &[(W, Value::Null)]), "weights` is missing; it is needed"),
        (
            with(w8a8(), &[(&at(W, "num_bits"), 4.into())]),
            "num_bits` is 4; 4 bits are read from pack-quantized",
        ),
        (with(packed(), &[(&at(W, "num_bits"), 3.into())]), "num_bits` is 3; 4 and 8 bits of int"),
        (
            with(packed(), &[(&at(W, "strategy"), "tensor".into())]),
            "strategy` is \"tensor\"; pack-quantized weights",
        ),
        (with(packed(), &[(&at(W, "group_size"), 12.into())]), "group_size` is 12; multiples of 8"),
        (
            with(packed(), &[(&at(W, "actorder"), "x".into())]),
            "actorder` is \"x\"; group and weight are supported",
        ),
        (
            with(
                packed(),
                &[
                    (&at(W, "type"), "float".into()),
                    (&at(W, "num_bits"), 8.into()),
                    (&at(W, "strategy"), "channel".into()),
                ],
            ),
            "float weights are read from float-quantized",
        ),
        (
            with(w8a8(), &[(&at(W, "type"), "float".into()), (&at(W, "strategy"), "group".into())]),
            "tensor, channel and block are supported",
        ),
        (
            with(w8a8(), &[(&at(W, "type"), "float".into()), (&at(W, "symmetric"), false.into())]),
            "float weights are symmetric",
        ),
        (
            with(w8a8(), &[(&at(W, "type"), "float".into()), (&at(W, "strategy"), "block".into())]),
            "blocks of [128, 128]",
        ),
    ] {
        let message = message(&quantization);
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
}

#[test]
fn inputs_and_mixtures_of_compressed_tensors_that_are_not_read_are_named() {
    const A: &str = "config_groups.group_0.input_activations";
    let at = |place: &str, field: &str| format!("{place}.{field}");
    let mixed = with(w8a8(), &[("config_groups.group_1", w8a8()["config_groups"]["group_0"].clone())]);
    assert!(Quantization::of(&config(&mixed)).is_ok(), "two groups of one scheme are one");
    for (quantization, words) in [
        (with(w8a8(), &[(&at(A, "num_bits"), 4.into())]), "num_bits` is 4; inputs of 8 bits"),
        (
            with(w8a8(), &[(&at(A, "symmetric"), false.into())]),
            "symmetric` is false; symmetric inputs are supported",
        ),
        (with(w8a8(), &[(&at(A, "dynamic"), "local".into())]), "dynamic` is \"local\"; true and false"),
        (
            with(w8a8(), &[(&at(A, "strategy"), "channel".into())]),
            "strategy` is \"channel\"; dynamic inputs of a token",
        ),
        (
            with(mixed.clone(), &[("config_groups.group_1.weights.num_bits", 4.into())]),
            "group_1.weights.num_bits` is 4; 4 bits are read from pack-quantized",
        ),
        (
            with(mixed.clone(), &[("format", "mixed-precision".into())]),
            "config_groups.group_0.format` is missing; int-quantized, float-quantized",
        ),
        (
            with(mixed.clone(), &[("config_groups.group_1.format", "mixed-precision".into())]),
            "config_groups.group_1.format` is \"mixed-precision\"; int-quantized",
        ),
        (
            with(mixed.clone(), &[("config_groups.group_1.output_activations", json!({"num_bits": 8}))]),
            "group_1.output_activations` is {\"num_bits\":8}; quantised outputs",
        ),
        (with(mixed.clone(), &[("config_groups.group_1", 7.into())]), "group_1` is 7; an object is needed"),
        (
            with(mixed.clone(), &[("config_groups.group_1.targets", "Linear".into())]),
            "group_1.targets` is \"Linear\"; a list of strings",
        ),
        (
            with(mixed, &[("config_groups.group_1.targets", json!(["re:("]))]),
            "group_1.targets` has `(`, which is no pattern",
        ),
    ] {
        let message = message(&quantization);
        assert!(message.contains(words), "{message}\nwhere expected: {words}");
    }
}
