//! Sampling against a definition written the slow, plain way.

use nvllm_core::sampling::{TokenCounts, processed, sample, takes_largest, top_logprobs, uniform};
use nvllm_core::{SamplingParams, TokenId};
use proptest::prelude::*;

/// Steps 4 to 8 of the module's essay by full sorting.
fn plain(logits: &[f32], params: &SamplingParams, position: u32) -> u32 {
    let scaled: Vec<f64> = logits.iter().map(|&x| f64::from(x) / f64::from(params.temperature)).collect();
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| scaled[b as usize].total_cmp(&scaled[a as usize]).then(a.cmp(&b)));
    order.retain(|&t| (scaled[t as usize] - max).exp() >= f64::from(params.min_p));
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    let mass = |t: &u32| (scaled[*t as usize] - max).exp();
    let total: f64 = order.iter().map(mass).sum();
    let mut sum = 0.0;
    let mut last = order.len();
    for (i, t) in order.iter().enumerate() {
        sum += mass(t);
        if params.top_p < 1.0 && sum >= f64::from(params.top_p) * total * (1.0 - 1e-12) {
            last = i + 1;
            break;
        }
    }
    order.truncate(last);
    let noisy =
        |t: &u32| scaled[*t as usize] - (-uniform(params.seed, params.choice, position, *t).ln()).ln();
    order.into_iter().max_by(|a, b| noisy(a).total_cmp(&noisy(b))).unwrap()
}

proptest! {
    #[test]
    fn draws_what_the_plain_definition_draws(
        logits in prop::collection::vec(-8.0f32..8.0, 1..700),
        temperature in 0.1f32..3.0,
        top_k in prop_oneof![Just(0u32), 1..20u32],
        top_p in prop_oneof![Just(1.0f32), 0.05f32..0.99],
        min_p in prop_oneof![Just(0.0f32), 0.01f32..0.5],
        seed: u64,
        position in 0..10_000u32,
    ) {
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::default() };
        let drawn = sample(&logits, &params, &TokenCounts::default(), position, None).token;
        prop_assert_eq!(drawn.0, plain(&logits, &params, position));
    }

    #[test]
    fn greedy_takes_the_first_largest(logits in prop::collection::vec(-3i8..3, 1..50)) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let token = sample(&logits, &SamplingParams::default(), &TokenCounts::default(), 0, None).token.index();
        prop_assert!(logits.iter().all(|&x| x <= logits[token]));
        prop_assert!(logits[..token].iter().all(|&x| x < logits[token]));
    }

    #[test]
    fn a_mask_is_obeyed_and_logprobs_ignore_it(
        logits in prop::collection::vec(-4.0f32..4.0, 33..80), allowed in 0usize..33, temperature in 0.0f32..2.0,
    ) {
        let mut mask = vec![0u32; logits.len().div_ceil(32)];
        mask[allowed / 32] |= 1 << (allowed % 32);
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let token = sample(&logits, &params, &TokenCounts::default(), 5, Some(&mask)).token;
        prop_assert_eq!(token.index(), allowed);
        let report = top_logprobs(&logits, token, logits.len());
        let total: f64 = report.top.iter().map(|(_, lp)| f64::from(*lp).exp()).sum();
        prop_assert!((total - 1.0).abs() < 1e-4);
        prop_assert!(report.top.windows(2).all(|w| w[0].1 >= w[1].1));
    }
}

#[test]
fn penalties_bias_and_suppression() {
    let ids = |list: &[u32]| list.iter().map(|&t| TokenId(t)).collect::<Vec<_>>();
    let counts = TokenCounts::new(&ids(&[0, 1, 1]), &ids(&[2, 2]));
    let params = SamplingParams {
        repetition_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        logit_bias: vec![(TokenId(3), 1.5)],
        min_tokens: 3,
        stop_tokens: ids(&[4]),
        ..SamplingParams::default()
    };
    let x = processed(&[1.0, -1.0, 4.0, 0.0, 9.0, 7.0], &params, &counts, None);
    // Seen in the prompt: 1/2 and -1*2. Seen twice in the output: 4/2 - 2*0.25 - 0.5. Biased,
    // suppressed, untouched.
    assert_eq!(*x, [0.5, -2.0, 1.0, 1.5, f32::NEG_INFINITY, 7.0]);
    let mut counts = counts;
    counts.push(TokenId(5));
    assert_eq!(processed(&[0.0; 6], &params, &counts, None)[4], 0.0, "three tokens are out: no suppression");
}

#[test]
fn seeds_choices_and_positions_give_other_tokens() {
    let logits = vec![0.0; 1000];
    let draw = |seed, choice, position| {
        let params = SamplingParams { temperature: 1.0, seed, choice, ..SamplingParams::default() };
        sample(&logits, &params, &TokenCounts::default(), position, None).token
    };
    assert_eq!(draw(1, 0, 7), draw(1, 0, 7));
    let others = [draw(2, 0, 7), draw(1, 1, 7), draw(1, 0, 8)];
    assert!(others.iter().all(|t| *t != draw(1, 0, 7)), "{others:?}");
}

#[test]
fn bad_parameters_name_themselves() {
    let cases: [(&str, SamplingParams); 6] = [
        ("temperature", SamplingParams { temperature: -1.0, ..SamplingParams::default() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..SamplingParams::default() }),
        ("top_p", SamplingParams { top_p: 0.0, ..SamplingParams::default() }),
        ("min_p", SamplingParams { min_p: 1.5, ..SamplingParams::default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(TokenId(99), 1.0)], ..SamplingParams::default() }),
        ("stop_token_ids", SamplingParams { stop_tokens: vec![TokenId(99)], ..SamplingParams::default() }),
    ];
    for (field, params) in cases {
        let message = params.check(10).unwrap_err().to_string();
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn greedy_passes_over_nan_and_takes_the_first_where_nothing_is_left() {
    let greedy = |logits: &[f32]| {
        sample(logits, &SamplingParams::default(), &TokenCounts::default(), 0, None).token.index()
    };
    let mut logits = vec![f32::NAN; 40];
    assert_eq!(greedy(&logits), 0);
    logits[17] = f32::NEG_INFINITY;
    assert_eq!(greedy(&logits), 0);
    (logits[20], logits[38]) = (-3.0, -2.0);
    assert_eq!(greedy(&logits), 38);
}

/// Every other logit may be lost where it says so, and one that looks at it must not say so.
#[test]
fn the_largest_logit_decides_alone_where_nothing_changes_a_logit() {
    let of = SamplingParams::default;
    let stops = |min_tokens| SamplingParams { stop_tokens: vec![TokenId(1)], min_tokens, ..of() };
    let counts = |params: &SamplingParams| TokenCounts::needed(params, &[TokenId(1)], &[TokenId(1); 3]);
    for params in [of(), SamplingParams { top_k: 2, top_p: 0.5, min_p: 0.1, seed: 7, ..of() }, stops(3)] {
        assert!(takes_largest(&params, &counts(&params)), "{params:?}");
        let rest = [f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 2.0];
        for logits in [[-1.0, 2.0, 1.0, 2.0], rest] {
            assert_eq!(sample(&logits, &params, &counts(&params), 3, None).token, TokenId(1), "{params:?}");
        }
    }
    for params in [
        SamplingParams { temperature: 0.5, ..of() },
        SamplingParams { repetition_penalty: 1.1, ..of() },
        SamplingParams { presence_penalty: 1.0, ..of() },
        SamplingParams { frequency_penalty: -1.0, ..of() },
        SamplingParams { logit_bias: vec![(TokenId(0), 9.0)], ..of() },
        stops(4),
    ] {
        assert!(!takes_largest(&params, &counts(&params)), "{params:?}");
    }
}
