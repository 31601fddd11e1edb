//! Paged attention: near the naive form, and the same bits for any paging, chunking, batch and
//! number of threads.

use crate::support::{Random, all_kernels, assert_near, assert_same, cpu, decode, encode, rounded, unit};
use nvllm_core::{HostTensor, KvFormat, KvGeometry};
use nvllm_cpu::{
    AttentionShape, Cpu, Elem, Isa, Kernels, KvLayout, KvPages, KvPagesMut, PageElem, Rows, RowsMut,
    SequenceQueries,
};
use proptest::prelude::*;

/// One sequence's queries, keys and values by absolute position, as stored.
#[derive(Clone)]
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    act: Elem,
    kv: PageElem,
}

/// What core calls the format of such pages.
fn format(elem: PageElem) -> KvFormat {
    match elem {
        PageElem::F32 => KvFormat::F32,
        PageElem::Bf16 => KvFormat::Bf16,
        PageElem::E4m3 => KvFormat::Fp8,
        PageElem::I8 => KvFormat::Int8,
    }
}

/// How a sequence is served.
#[derive(Clone, Debug)]
struct Paging {
    block_len: usize,
    /// Seed of the block order; 0 for ascending.
    shuffle: u64,
    /// New tokens of each step; the last repeats.
    steps: Vec<usize>,
    threads: usize,
}

impl Model {
    fn sequence(&self, seed: u64, len: usize) -> Sequence {
        let mut random = Random::new(seed);
        let mut make = |cols: usize, elem| rounded(&random.values(len * cols), elem);
        Sequence {
            q: make(self.q_heads * self.head_dim, self.act),
            k: make(self.kv_heads * self.head_dim, self.act),
            v: make(self.kv_heads * self.head_dim, self.act),
            len,
        }
    }

    fn shape(&self) -> AttentionShape {
        AttentionShape {
            q_heads: self.q_heads,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.window,
        }
    }

    /// Keys or values as the pages hold them.
    fn stored(&self, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        x.chunks_mut(self.head_dim).for_each(|row| format(self.kv).round(row));
        x
    }

    /// Softmax attention in f64, with keys and values as the pages hold them.
    fn naive(&self, s: &Sequence) -> Vec<f64> {
        let (d, group) = (self.head_dim, self.q_heads / self.kv_heads);
        let (k, v) = (self.stored(&s.k), self.stored(&s.v));
        let mut out = Vec::new();
        for t in 0..s.len {
            let from = self.window.map_or(0, |w| (t + 1).saturating_sub(w));
            for h in 0..self.q_heads {
                let q = &s.q[(t * self.q_heads + h) * d..][..d];
                let row = |x: &[f32], j: usize| -> Vec<f64> {
                    x[(j * self.kv_heads + h / group) * d..][..d].iter().map(|v| f64::from(*v)).collect()
                };
                let scores: Vec<f64> = (from..=t)
                    .map(|j| {
                        let dot: f64 = row(&k, j).iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum();
                        dot * f64::from(self.shape().scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut o = vec![0.0; d];
                for (j, w) in weights.iter().enumerate() {
                    for (o, v) in o.iter_mut().zip(row(&v, from + j)) {
                        *o += w / sum * v;
                    }
                }
                out.extend(o);
            }
        }
        out
    }
}

/// Serves the sequences together, each step of each in one call, and returns every sequence's
/// outputs as stored.
fn serve(kernels: &'static Kernels, model: Model, seqs: &[Sequence], paging: &Paging) -> Vec<Vec<u8>> {
    let mut cpu = cpu(kernels, paging.threads);
    let per_seq: Vec<usize> = seqs.iter().map(|s| s.len.div_ceil(paging.block_len)).collect();
    let num_blocks = per_seq.iter().sum::<usize>() + 1;
    let mut order: Vec<u32> = (1..num_blocks as u32).collect();
    if paging.shuffle > 0 {
        let mut random = Random::new(paging.shuffle);
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
    }
    let mut at = 0;
    let tables: Vec<&[u32]> = per_seq
        .iter()
        .map(|n| {
            at += n;
            &order[at - n..at]
        })
        .collect();
    let layout = KvLayout {
        num_blocks,
        kv_heads: model.kv_heads,
        block_len: paging.block_len,
        head_dim: model.head_dim,
        elem: model.kv,
    };
    // Memory that was never written must not matter: all NaN.
    let mut pages = vec![0xffu8; layout.bytes()];
    let mut done = vec![0; seqs.len()];
    let mut outs = vec![Vec::new(); seqs.len()];
    for step in 0.. {
        let new = paging.steps[step.min(paging.steps.len() - 1)];
        let mut spans = Vec::new();
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        for (i, s) in seqs.iter().enumerate() {
            let n = new.min(s.len - done[i]);
            let (qc, kc) = (model.q_heads * model.head_dim, model.kv_heads * model.head_dim);
            q.extend_from_slice(&s.q[done[i] * qc..(done[i] + n) * qc]);
            k.extend_from_slice(&s.k[done[i] * kc..(done[i] + n) * kc]);
            v.extend_from_slice(&s.v[done[i] * kc..(done[i] + n) * kc]);
            spans.push(SequenceQueries {
                first_row: row,
                num_new: n,
                first_position: done[i],
                blocks: tables[i],
            });
            row += n;
        }
        if row == 0 {
            return outs;
        }
        let out = attend(&mut cpu, model, (&q, &k, &v), row, layout, &mut pages, &spans);
        let bytes = model.q_heads * model.head_dim * model.act.size();
        for (i, span) in spans.iter().enumerate() {
            outs[i].extend_from_slice(&out[span.first_row * bytes..(span.first_row + span.num_new) * bytes]);
            done[i] += span.num_new;
        }
    }
    unreachable!("steps go on until nothing is left")
}

fn attend(
    cpu: &mut Cpu,
    model: Model,
    (q, k, v): (&[f32], &[f32], &[f32]),
    rows: usize,
    layout: KvLayout,
    pages: &mut [u8],
    spans: &[SequenceQueries<'_>],
) -> Vec<u8> {
    let (q_cols, kv_cols) = (model.q_heads * model.head_dim, model.kv_heads * model.head_dim);
    let (q, k, v) = (encode(q, model.act), encode(k, model.act), encode(v, model.act));
    let keys = Rows::new(&k, model.act, rows, kv_cols).unwrap();
    let values = Rows::new(&v, model.act, rows, kv_cols).unwrap();
    cpu.append_kv(keys, values, &mut KvPagesMut::new(pages, layout).unwrap(), spans).unwrap();
    let mut out = vec![0u8; rows * q_cols * model.act.size()];
    let to = RowsMut::new(&mut out, model.act, rows, q_cols).unwrap();
    let q = Rows::new(&q, model.act, rows, q_cols).unwrap();
    cpu.attention(model.shape(), q, KvPages::new(pages, layout).unwrap(), spans, to).unwrap();
    out
}

/// Activations and pages.
const KINDS: [(Elem, PageElem); 6] = [
    (Elem::F32, PageElem::F32),
    (Elem::F32, PageElem::Bf16),
    (Elem::Bf16, PageElem::Bf16),
    (Elem::F32, PageElem::E4m3),
    (Elem::Bf16, PageElem::I8),
    (Elem::F32, PageElem::I8),
];

const WHOLE: fn() -> Paging = || Paging { block_len: 16, shuffle: 0, steps: vec![1000], threads: 1 };

#[test]
fn near_the_naive_form() {
    for (q_heads, kv_heads) in [(1, 1), (4, 2), (6, 2), (16, 1), (60, 1)] {
        for head_dim in [8, 24, 64, 128] {
            for window in [None, Some(1), Some(37), Some(100)] {
                for (act, kv) in KINDS {
                    let model = Model { q_heads, kv_heads, head_dim, window, act, kv };
                    let s = model.sequence(head_dim as u64, if q_heads > 6 { 70 } else { 141 });
                    let want = model.naive(&s);
                    for kernels in
                        all_kernels().into_iter().filter(|k| k.isa() != Isa::Scalar || head_dim < 64)
                    {
                        let out = serve(kernels, model, std::slice::from_ref(&s), &WHOLE());
                        // Weights are off by the scores' error, some 1e-6, and values are of size
                        // 1 to 4.
                        assert_near(&format!("{kernels:?} {model:?}"), &decode(&out[0], act), &want, |i| {
                            unit(act) * want[i].abs() + 1e-5
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn all_isas_give_the_same_bits() {
    for (act, kv) in KINDS {
        let model = Model { q_heads: 6, kv_heads: 2, head_dim: 40, window: Some(90), act, kv };
        let s = [model.sequence(1, 150)];
        let all = all_kernels();
        let want = serve(all[0], model, &s, &WHOLE());
        for kernels in &all[1..] {
            assert_same(&format!("{kernels:?} {kv:?}"), &serve(kernels, model, &s, &WHOLE())[0], &want[0]);
        }
    }
}

/// Few rows, whose keys are not transposed in memory, have the bits of many.
#[test]
fn one_token_at_a_time_has_the_bits_of_a_prompt() {
    for (act, kv) in KINDS {
        for group in [1, 2, 3, 4, 5] {
            let model = Model { q_heads: 2 * group, kv_heads: 2, head_dim: 72, window: None, act, kv };
            let s = [model.sequence(group as u64, 100)];
            for kernels in all_kernels() {
                let want = serve(kernels, model, &s, &WHOLE());
                let one = Paging { steps: vec![60, 1], ..WHOLE() };
                assert_same(&format!("{kernels:?} {model:?}"), &serve(kernels, model, &s, &one)[0], &want[0]);
            }
        }
    }
}

/// What is stored is what core says of the format, byte for byte, values at its borders included.
#[test]
fn rows_are_stored_as_core_says() {
    let (kv_heads, head_dim, block_len) = (3, 24, 4);
    let borders = [448.0, 449.0, 464.0, 464.1, 1e9, f32::INFINITY, 1.0 / 64.0, 0.9e-3, 1e-3, 1e-41, 0.0];
    let mut random = Random::new(7);
    for elem in [PageElem::F32, PageElem::Bf16, PageElem::E4m3, PageElem::I8] {
        let layout = KvLayout { num_blocks: 3, kv_heads, block_len, head_dim, elem };
        let geometry = KvGeometry {
            num_layers: 1,
            num_heads: kv_heads,
            head_dim,
            block_len,
            num_blocks: 3,
            format: format(elem),
            window: None,
        };
        for act in [Elem::F32, Elem::Bf16] {
            // By head and part one row with a border value and its neighbours, and one without.
            let mut rows = [0, 1].map(|_| random.values(block_len * kv_heads * head_dim));
            for (i, border) in borders.into_iter().enumerate() {
                let row = &mut rows[i % 2][i * head_dim..][..head_dim];
                row[0] = border;
                row[1] = -border;
                row[2..4].copy_from_slice(&[border.next_up(), border.next_down()]);
            }
            rows[1][0] = f32::NAN;
            rows[0][5 * head_dim..6 * head_dim].fill(0.0);
            let rows = rows.map(|x| rounded(&x, act));
            // `[part, head, offset, column]` of what are rows by token.
            let mut want = Vec::new();
            for part in &rows {
                for head in 0..kv_heads {
                    for token in 0..block_len {
                        want.extend_from_slice(&part[(token * kv_heads + head) * head_dim..][..head_dim]);
                    }
                }
            }
            let want = geometry.encode_block(&want);
            for kernels in all_kernels() {
                let mut pages = vec![0xffu8; layout.bytes()];
                let bytes = rows.each_ref().map(|x| encode(x, act));
                let [k, v] =
                    bytes.each_ref().map(|x| Rows::new(x, act, block_len, kv_heads * head_dim).unwrap());
                let seqs =
                    [SequenceQueries { first_row: 0, num_new: block_len, first_position: 0, blocks: &[1] }];
                let mut into = KvPagesMut::new(&mut pages, layout).unwrap();
                cpu(kernels, 1).append_kv(k, v, &mut into, &seqs).unwrap();
                let got = &pages[layout.block_bytes()..2 * layout.block_bytes()];
                let got =
                    HostTensor::from_bytes(geometry.block_shape(), geometry.block_dtype(), got.to_vec());
                // NaN has many bits.
                let bits = |block: &HostTensor| {
                    let values = geometry.decode_block(block).unwrap();
                    values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>()
                };
                assert_eq!(bits(&got), bits(&want), "{kernels:?} {elem:?} {act:?}");
                let others = [&pages[..layout.block_bytes()], &pages[2 * layout.block_bytes()..]];
                assert!(others.concat().iter().all(|byte| *byte == 0xff), "{kernels:?} {elem:?}");
            }
        }
    }
}

/// A key or a value that is no number reaches every output that sees it, and no other.
#[test]
fn what_is_no_number_shows() {
    for elem in [PageElem::Bf16, PageElem::E4m3, PageElem::I8] {
        for (part, bad) in [(0, f32::NAN), (1, f32::NAN), (1, f32::INFINITY)] {
            let model =
                Model { q_heads: 2, kv_heads: 1, head_dim: 8, window: Some(40), act: Elem::F32, kv: elem };
            let mut s = model.sequence(3, 90);
            let row = if part == 0 { &mut s.k } else { &mut s.v };
            row[20 * 8..21 * 8].fill(bad);
            for kernels in all_kernels() {
                let out = decode(&serve(kernels, model, std::slice::from_ref(&s), &WHOLE())[0], Elem::F32);
                for (token, out) in out.chunks(16).enumerate() {
                    // FP8 has a largest number and no infinity.
                    let shows = (20..60).contains(&token) && !(elem == PageElem::E4m3 && bad.is_infinite());
                    let finite = out.iter().all(|x| x.is_finite());
                    assert_eq!(finite, !shows, "{kernels:?} {elem:?} {part} {bad} {token}");
                }
            }
        }
    }
}

#[test]
fn a_long_context_dealt_out_by_chunks_has_the_same_bits() {
    let model =
        Model { q_heads: 4, kv_heads: 2, head_dim: 16, window: None, act: Elem::F32, kv: PageElem::Bf16 };
    for kernels in all_kernels() {
        for window in [None, Some(700)] {
            let model = Model { window, ..model };
            let s = [model.sequence(2, 900)];
            // 890 at once, then one by one: few tiles, many chunks.
            let one = Paging { block_len: 16, shuffle: 0, steps: vec![890, 1], threads: 1 };
            let want = serve(kernels, model, &s, &one);
            for threads in 2..=4 {
                let many = Paging { threads, block_len: 7, shuffle: 5, steps: one.steps.clone() };
                assert_same(
                    &format!("{kernels:?} {threads}"),
                    &serve(kernels, model, &s, &many)[0],
                    &want[0],
                );
            }
            let exact = model.naive(&s[0]);
            assert_near(&format!("{kernels:?}"), &decode(&want[0], Elem::F32), &exact, |_| 1e-5);
        }
    }
}

#[test]
fn wrong_extents_are_errors() {
    let mut cpu = cpu(all_kernels()[0], 1);
    let layout = KvLayout { num_blocks: 2, kv_heads: 2, block_len: 4, head_dim: 8, elem: PageElem::F32 };
    let pages = vec![0u8; layout.bytes()];
    assert!(KvPages::new(&pages[1..], layout).is_err());
    assert!(KvPages::new(&[], KvLayout { head_dim: 12, ..layout }).is_err());
    let q = vec![0u8; 3 * 32 * 4];
    let mut run = |q_heads: usize, window, first_position, blocks: &[u32]| {
        let cols = q_heads * 8;
        let q = Rows::new(&q[..3 * cols * 4], Elem::F32, 3, cols).unwrap();
        let mut out = vec![0u8; 3 * cols * 4];
        let to = RowsMut::new(&mut out, Elem::F32, 3, cols).unwrap();
        let shape = AttentionShape { q_heads, scale: 1.0, window };
        let seqs = [SequenceQueries { first_row: 0, num_new: 3, first_position, blocks }];
        cpu.attention(shape, q, KvPages::new(&pages, layout).unwrap(), &seqs, to)
    };
    assert!(run(4, None, 0, &[1]).is_ok());
    assert!(run(3, None, 0, &[1]).unwrap_err().to_string().contains("3 query heads over 2 KV heads"));
    assert!(run(4, Some(0), 0, &[1]).is_err());
    assert!(run(4, None, 2, &[1]).unwrap_err().to_string().contains("positions to 5 in 1 blocks of 4"));
    assert!(run(4, None, 0, &[2]).unwrap_err().to_string().contains("of 2"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Page size, placement, chunking, batch mix and threads change no bit.
    #[test]
    fn serving_changes_no_bit(
        seed in 1u64..1000,
        (kv_heads, group) in (1usize..3, 1usize..5),
        head_dim in prop::sample::select(vec![8usize, 16, 24, 64]),
        window in prop::option::of(1usize..150),
        lens in prop::collection::vec(1usize..200, 1..4),
        block_len in prop::sample::select(vec![1usize, 3, 16, 64, 100]),
        steps in prop::collection::vec(1usize..90, 1..4),
        threads in 1usize..4,
        (act, kv) in prop::sample::select(&KINDS[..]),
    ) {
        let model = Model { q_heads: kv_heads * group, kv_heads, head_dim, window, act, kv };
        let seqs: Vec<Sequence> = lens.iter().enumerate().map(|(i, n)| model.sequence(seed + i as u64, *n)).collect();
        let mut first: Option<Vec<Vec<u8>>> = None;
        for kernels in all_kernels() {
            let together = serve(kernels, model, &seqs, &Paging { block_len, shuffle: seed, steps: steps.clone(), threads });
            for (i, s) in seqs.iter().enumerate() {
                let alone = serve(kernels, model, std::slice::from_ref(s), &WHOLE());
                assert_same(&format!("{kernels:?} {model:?} sequence {i}"), &together[i], &alone[0]);
            }
            let first = first.get_or_insert_with(|| together.clone());
            prop_assert_eq!(&together, first);
        }
    }
}
