//! A strategy of trials for every op, and the case that holds a backend to it.

use nvllm_core::program::{Projection, QkNorm, Recorder};
use nvllm_core::{AttentionSpec, Backend, RopeScaling, RopeSpec, ValueId, WeightId};
use proptest::prelude::*;

use crate::check::{Settings, conforms, holds, load};
use crate::draw::Draw;
use crate::error::{Mismatch, Result};
use crate::layout::{Layout, Outputs, layouts, long, rows};
use crate::trial::{Numbers, Sketch, Trial, numbers};

/// Rows of the input tables.
const TABLE_ROWS: usize = 131;

/// Multiplications that a naive reference does in a few milliseconds.
const WORK: usize = 3_000_000;

/// One step of any number of rows, no past: for ops that look at one row at a time.
pub(crate) fn flat() -> impl Strategy<Value = Layout> {
    layouts(rows(), 0)
}

/// `most` or as much of it as `rows` leave of the work.
fn fit(wanted: usize, rows: usize, other: usize) -> usize {
    wanted.min(WORK / (rows * other).max(1)).max(1)
}

fn check(
    case: &str,
    backend: &dyn Backend,
    settings: &Settings,
    trials: impl Strategy<Value = Trial>,
) -> Result<()> {
    holds(case, settings, 1.0, trials.prop_map(Trial::keep_all), |trial| conforms(backend, trial))
}

/// Case of [`Op::Embed`](nvllm_core::Op::Embed).
pub fn embed(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials =
        (numbers(backend), flat(), 1..300_usize, 1..200_usize).prop_map(|(numbers, layout, cols, vocab)| {
            let mut sketch = Sketch::new(numbers);
            let (a, b) = (sketch.table("a", vocab, cols), sketch.table("b", vocab, 3));
            sketch.finish(vocab, layout, |p| {
                p.embed(a);
                p.embed(b);
            })
        });
    check("embed", backend, settings, trials)
}

/// Case of [`Op::RmsNorm`](nvllm_core::Op::RmsNorm).
pub fn rms_norm(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let eps = prop_oneof![Just(1e-6_f32), Just(1e-5), Just(1e-2)];
    let trials = (numbers(backend), flat(), 1..400_usize, 1..5_usize, eps).prop_map(
        |(numbers, layout, n, groups, eps)| {
            let mut sketch = Sketch::new(numbers);
            let x = sketch.table("x", TABLE_ROWS, n * groups);
            let w = sketch.vector("w", n, 1.0, 0.3);
            sketch.finish(TABLE_ROWS, layout, |p| {
                let x = p.embed(x);
                p.rms_norm(x, w, eps);
            })
        },
    );
    check("rms_norm", backend, settings, trials)
}

/// A linear layer `[n, k]` to be.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    numbers: Numbers,
    layout: Layout,
    k: usize,
    n: usize,
    bias: bool,
}

/// Layers of any element types and extents; half of them all bf16 in multiples of 8, which is what
/// the fastest kernels take.
pub(crate) fn layers<L: Strategy<Value = Layout>>(
    backend: &dyn Backend,
    layout: L,
) -> impl Strategy<Value = Layer> + use<L> {
    let extents = (1..1_100_usize, 1..200_usize);
    (numbers(backend), layout, extents, any::<bool>(), any::<bool>()).prop_map(
        |(numbers, layout, (k, n), bias, regular)| {
            let (bf16, rows) = (nvllm_core::DType::Bf16, layout.lens().iter().sum());
            let as_wanted = |extent: usize| if regular { (extent / 8 * 8).max(8) } else { extent };
            let n = as_wanted(fit(n, rows, 33));
            let k = as_wanted(fit(k, rows, n));
            let activations = nvllm_core::Activations::Bf16;
            let all_bf16 = Numbers { weights: bf16, vectors: bf16, activations, ..numbers };
            Layer { numbers: if regular { all_bf16 } else { numbers }, layout, k, n, bias }
        },
    )
}

impl Layer {
    /// A program that embeds `[T, k]`, and what `record` does with that, the layer of `times * n`
    /// rows, and a value `[T, n]`.
    pub(crate) fn trial(
        self,
        times: usize,
        record: impl FnOnce(&mut Recorder, ValueId, Projection, ValueId),
    ) -> Trial {
        let Self { numbers, layout, k, n, bias } = self;
        let mut sketch = Sketch::new(numbers);
        let (x, r) = (sketch.table("x", TABLE_ROWS, k), sketch.table("r", TABLE_ROWS, n));
        let weight = sketch.matrix("w", times * n, k);
        let bias = bias.then(|| sketch.vector("b", times * n, 0.0, 1.0));
        sketch.finish(TABLE_ROWS, layout, |p| {
            let (x, r) = (p.embed(x), p.embed(r));
            record(p, x, Projection { weight, bias }, r);
        })
    }
}

/// Case of [`Op::Linear`](nvllm_core::Op::Linear): with and without bias, over tokens and over
/// outputs, kept in the activation dtype and in f32.
pub fn linear(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (layers(backend, flat()), 0..3_usize).prop_map(|(layer, form)| {
        layer.trial(1, |p, x, projection, _| {
            if form == 0 {
                p.linear(x, projection);
            } else {
                let x = if form == 1 { x } else { p.gather_rows(x) };
                p.linear_f32(x, projection);
            }
        })
    });
    check("linear", backend, settings, trials)
}

/// Case of [`Op::LinearAdd`](nvllm_core::Op::LinearAdd): over tokens and over outputs.
pub fn linear_add(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (layers(backend, flat()), any::<bool>()).prop_map(|(layer, outputs)| {
        layer.trial(1, |p, x, projection, r| {
            let (x, r) = if outputs { (p.gather_rows(x), p.gather_rows(r)) } else { (x, r) };
            p.linear_add(x, projection, r);
        })
    });
    check("linear_add", backend, settings, trials)
}

/// Case of [`Op::LinearSiluMul`](nvllm_core::Op::LinearSiluMul): over tokens and over outputs.
pub fn linear_silu_mul(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (layers(backend, flat()), any::<bool>()).prop_map(|(layer, outputs)| {
        layer.trial(2, |p, x, projection, _| {
            let x = if outputs { p.gather_rows(x) } else { x };
            p.linear_silu_mul(x, projection);
        })
    });
    check("linear_silu_mul", backend, settings, trials)
}

/// Case of [`Op::Add`](nvllm_core::Op::Add), of a value to itself too.
pub fn add(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), flat(), 1..300_usize).prop_map(|(numbers, layout, cols)| {
        let mut sketch = Sketch::new(numbers);
        let (a, b) = (sketch.table("a", TABLE_ROWS, cols), sketch.table("b", TABLE_ROWS, cols));
        sketch.finish(TABLE_ROWS, layout, |p| {
            let (a, b) = (p.embed(a), p.embed(b));
            let sum = p.add(a, b);
            p.add(sum, sum);
        })
    });
    check("add", backend, settings, trials)
}

/// Case of [`Op::SiluMul`](nvllm_core::Op::SiluMul); gates reach +-40, beyond where the exponential
/// saturates.
pub fn silu_mul(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), flat(), 1..200_usize).prop_map(|(numbers, layout, n)| {
        let mut sketch = Sketch::new(numbers);
        let x = sketch.table("x", TABLE_ROWS, 2 * n);
        sketch.finish(TABLE_ROWS, layout, |p| {
            let x = p.embed(x);
            p.silu_mul(x);
        })
    });
    check("silu_mul", backend, settings, trials)
}

/// Case of [`Op::SliceCols`](nvllm_core::Op::SliceCols).
pub fn slice_cols(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), flat(), 1..300_usize).prop_map(|(numbers, layout, cols)| {
        let mut sketch = Sketch::new(numbers);
        let x = sketch.table("x", TABLE_ROWS, cols);
        let cuts: Vec<_> = (0..3).map(|_| sketch.draw.below(cols)).collect();
        let lens: Vec<_> = cuts.iter().map(|&start| 1 + sketch.draw.below(cols - start)).collect();
        sketch.finish(TABLE_ROWS, layout, |p| {
            let x = p.embed(x);
            for (&start, &len) in cuts.iter().zip(&lens) {
                p.slice_cols(x, start, len);
            }
        })
    });
    check("slice_cols", backend, settings, trials)
}

/// Rotations of every kind of scaling.
pub(crate) fn ropes(head_dim: usize) -> impl Strategy<Value = RopeSpec> {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_len: 2_048,
        attention_factor: 1.138_629_436_111_989,
        truncate: true,
    };
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_len: 8_192 };
    let scaling = prop_oneof![
        Just(RopeScaling::None),
        Just(RopeScaling::Linear { factor: 2.5 }),
        Just(yarn),
        Just(llama3)
    ];
    (prop_oneof![Just(1e4_f64), Just(1e6)], scaling).prop_map(move |(theta, scaling)| RopeSpec {
        head_dim,
        theta,
        scaling,
    })
}

/// Head widths: multiples of 8, and those for which there may be fast kernels.
pub(crate) fn head_dims() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(8_usize), 2 => Just(16_usize), 2 => Just(24_usize), 2 => Just(64_usize), 2 => Just(128_usize)]
}

/// Case of [`Op::Rope`](nvllm_core::Op::Rope), at positions up to 40,000.
pub fn rope(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let specs = head_dims().prop_flat_map(ropes);
    let trials = (numbers(backend), layouts(rows(), 40), specs, 1..5_usize).prop_map(
        |(numbers, layout, spec, heads)| {
            let mut sketch = Sketch::new(numbers);
            let x = sketch.table("x", TABLE_ROWS, heads * spec.head_dim);
            sketch.finish(TABLE_ROWS, layout, |p| {
                let x = p.embed(x);
                p.rope(x, &spec);
            })
        },
    );
    check("rope", backend, settings, trials)
}

/// Case of [`Op::KvAppend`](nvllm_core::Op::KvAppend): what a KV block then holds.
pub fn kv_append(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), layouts(rows(), 70), head_dims(), 1..4_usize, 1..4_usize).prop_map(
        |(numbers, layout, head_dim, heads, num_layers)| {
            let mut sketch = Sketch::new(numbers);
            let cols = heads * head_dim;
            // Some beyond the largest number of FP8.
            let [k, v] =
                ["k", "v"].map(|name| sketch.table_of(name, TABLE_ROWS, cols, [1.0, 0.25, 16.0, 1024.0]));
            let kv = sketch.paged_kv(num_layers, heads, head_dim, None);
            let layer = kv(sketch.draw.below(num_layers));
            sketch.finish(TABLE_ROWS, layout, |p| {
                let (k, v) = (p.embed(k), p.embed(v));
                p.kv_append(k, v, layer);
            })
        },
    );
    check("kv_append", backend, settings, trials)
}

/// Shapes of attention.
#[derive(Clone, Debug)]
struct Heads {
    num_kv: usize,
    group: usize,
    head_dim: usize,
    window: Option<usize>,
}

fn heads() -> impl Strategy<Value = Heads> {
    let window =
        prop_oneof![3 => Just(None), 1 => Just(Some(1_usize)), 1 => Just(Some(5)), 1 => Just(Some(64))];
    (1..4_usize, 1..5_usize, head_dims(), window).prop_map(|(num_kv, group, head_dim, window)| Heads {
        num_kv,
        group,
        head_dim,
        window,
    })
}

/// Layouts for attention, whose work grows with the square of the rows.
fn attended() -> impl Strategy<Value = Layout> {
    let rows = prop_oneof![4 => Just(1_usize), 6 => Just(19_usize), 3 => Just(111_usize)];
    prop_oneof![10 => layouts(rows, 100).boxed(), 2 => long().boxed(), 1 => layouts(Just(989), 0).boxed()]
}

impl Heads {
    /// Fewer heads for many positions, narrow ones for very many.
    fn fit(self, layout: &Layout) -> Self {
        match layout.lens().into_iter().max() {
            Some(601..) => Self { num_kv: 1, group: self.group.min(2), head_dim: 16, ..self },
            Some(201..) => Self { num_kv: self.num_kv.min(2), group: self.group.min(2), ..self },
            _ => self,
        }
    }

    fn spec(&self) -> AttentionSpec {
        AttentionSpec {
            num_heads: self.num_kv * self.group,
            num_kv_heads: self.num_kv,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.window,
        }
    }
}

/// Case of [`Op::PagedAttention`](nvllm_core::Op::PagedAttention): ragged batches after real steps,
/// windows, group sizes, page sizes, permuted tables; two layers of one group with their own
/// windows.
pub fn paged_attention(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), attended(), heads()).prop_map(|(numbers, layout, heads)| {
        let spec = heads.fit(&layout).spec();
        let mut sketch = Sketch::new(numbers.for_heads(spec.head_dim));
        let cols = spec.num_kv_heads * spec.head_dim;
        // Unit scale: softmax then spreads over several positions, which is where it can go wrong.
        let q = sketch.even_table("q", TABLE_ROWS, spec.num_heads * spec.head_dim, 1.0);
        let k = sketch.even_table("k", TABLE_ROWS, cols, 1.0);
        let v = sketch.table("v", TABLE_ROWS, cols);
        let kv = sketch.paged_kv(2, spec.num_kv_heads, spec.head_dim, None);
        sketch.finish(TABLE_ROWS, layout, |p| {
            let (q, k, v) = (p.embed(q), p.embed(k), p.embed(v));
            p.kv_append(k, v, kv(1));
            p.paged_attention(q, &spec, kv(1));
            p.kv_append(v, k, kv(0));
            p.paged_attention(q, &AttentionSpec { window: Some(3), ..spec.clone() }, kv(0));
        })
    });
    check("paged_attention", backend, settings, trials)
}

/// Two KV groups of different layers, heads and widths within one `kv_bytes`: each block is its own
/// group's, and both together take no more than was given.
pub fn kv_groups(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let spec = |num_heads, num_kv_heads, head_dim, window| AttentionSpec {
        num_heads,
        num_kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
    };
    let (wide, narrow) = (spec(4, 2, 64, None), spec(3, 3, 16, Some(5)));
    let trials = || {
        (numbers(backend), attended()).prop_map(|(numbers, layout)| {
            let mut sketch = Sketch::new(numbers.for_heads(narrow.head_dim));
            let mut table = |name, heads: usize, cols| sketch.even_table(name, TABLE_ROWS, heads * cols, 1.0);
            let tables = [(&wide, ["q0", "kv0"]), (&narrow, ["q1", "kv1"])].map(|(spec, [q, kv])| {
                (table(q, spec.num_heads, spec.head_dim), table(kv, spec.num_kv_heads, spec.head_dim))
            });
            let groups = [(&wide, 1), (&narrow, 2)]
                .map(|(spec, layers)| sketch.paged_kv(layers, spec.num_kv_heads, spec.head_dim, None));
            sketch.finish(TABLE_ROWS, layout, |p| {
                for (((q, kv), group), spec) in tables.into_iter().zip(&groups).zip([&wide, &narrow]) {
                    let (q, kv) = (p.embed(q), p.embed(kv));
                    p.kv_append(kv, kv, group(0));
                    p.paged_attention(q, spec, group(0));
                }
            })
        })
    };
    check("kv_groups", backend, settings, trials())?;
    holds("kv_groups", settings, 0.1, trials(), |trial| {
        let mut exe = load(backend, trial)?;
        let groups = 0..trial.spec.kv.len();
        let bytes: usize = groups.map(|group| exe.kv_cache().geometry(group).bytes()).sum();
        if bytes > trial.limits.kv_bytes {
            let problem = format!("{bytes} bytes of blocks for a kv_bytes of {}", trial.limits.kv_bytes);
            return Err(Mismatch::contract(format!("kv_groups: {problem}")));
        }
        Ok(())
    })
}

/// Case of [`Op::Attention`](nvllm_core::Op::Attention): with and without norms, every rope.
pub fn attention(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let heads = heads().prop_flat_map(|heads| (ropes(heads.head_dim), Just(heads)));
    let trials = (numbers(backend), attended(), heads, any::<bool>()).prop_map(
        |(numbers, layout, (rope, heads), norm)| {
            let spec = heads.fit(&layout).spec();
            let rope = RopeSpec { head_dim: spec.head_dim, ..rope };
            let mut sketch = Sketch::new(numbers.for_heads(spec.head_dim));
            let cols = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim;
            let qkv = sketch.even_table("qkv", TABLE_ROWS, cols, 1.0);
            let mut weight = |name| sketch.vector(name, spec.head_dim, 1.0, 0.3);
            let norm = norm.then(|| QkNorm { q: weight("q_norm"), k: weight("k_norm"), eps: 1e-6 });
            let kv = sketch.paged_kv(1, spec.num_kv_heads, spec.head_dim, spec.window);
            sketch.finish(TABLE_ROWS, layout, |p| {
                let qkv = p.embed(qkv);
                p.attention(qkv, norm, &rope, &spec, kv(0));
            })
        },
    );
    check("attention", backend, settings, trials)
}

/// Case of [`Op::GatherRows`](nvllm_core::Op::GatherRows): some rows, all, the last, none.
pub fn gather_rows(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let layouts = (flat(), any::<u8>()).prop_map(|(layout, none)| {
        if none < 32 { Layout { outputs: Outputs::None, ..layout } } else { layout }
    });
    let trials = (numbers(backend), layouts, 1..200_usize).prop_map(|(numbers, layout, cols)| {
        let mut sketch = Sketch::new(numbers);
        let x = sketch.table("x", TABLE_ROWS, cols);
        sketch.finish(TABLE_ROWS, layout, |p| {
            let x = p.embed(x);
            p.gather_rows(x);
        })
    });
    check("gather_rows", backend, settings, trials)
}

/// Shapes of a routed layer.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    pub experts: usize,
    pub per_token: usize,
    pub renormalize: bool,
    pub ties: bool,
}

pub(crate) fn routings() -> impl Strategy<Value = Routing> {
    (1..20_usize, 1..9_usize, any::<bool>(), any::<bool>()).prop_map(
        |(experts, per_token, renormalize, ties)| Routing {
            experts,
            per_token: per_token.min(experts),
            renormalize,
            ties,
        },
    )
}

/// A router `[experts, k]`; with ties two experts have equal rows.
pub(crate) fn router(sketch: &mut Sketch, name: &str, routing: &Routing, k: usize) -> WeightId {
    let scale = 2.0 / (k as f32).sqrt();
    let mut first = Vec::new();
    let ties = routing.ties;
    let values = move |draw: &mut Draw, i: usize| {
        let x = draw.unit() * scale;
        if i < k {
            first.push(x);
        }
        if ties && i / k == 2 { first[i % k] } else { x }
    };
    sketch.weight(name, &[routing.experts, k], &[routing.experts], values)
}

/// Case of [`Op::TopK`](nvllm_core::Op::TopK).
pub fn top_k(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials =
        (numbers(backend), flat(), routings(), 1..40_usize).prop_map(|(numbers, layout, routing, k)| {
            let mut sketch = Sketch::new(numbers);
            let x = sketch.even_table("x", TABLE_ROWS, k, 1.0);
            let w = router(&mut sketch, "router", &routing, k);
            sketch.finish(TABLE_ROWS, layout, |p| {
                let x = p.embed(x);
                let logits = p.linear_f32(x, w);
                p.top_k(logits, routing.per_token, routing.renormalize);
            })
        });
    check("top_k", backend, settings, trials)
}

/// Rows through a router and two expert layers; the second reads one row a choice.
pub(crate) fn experts(
    numbers: Numbers,
    layout: Layout,
    routing: &Routing,
    [k, n, m]: [usize; 3],
    then: impl FnOnce(&mut Recorder, ValueId, ValueId),
) -> Trial {
    let rows = layout.lens().iter().sum::<usize>() * routing.per_token;
    let n = fit(n, rows, 2 * k);
    let m = fit(m, rows, 2 * n);
    let mut sketch = Sketch::new(numbers);
    let x = sketch.even_table("x", TABLE_ROWS, k, 1.0);
    let w = router(&mut sketch, "router", routing, k);
    let up = sketch.experts("up", [routing.experts, n, k], 2);
    let down = sketch.experts("down", [routing.experts, m, n], 1);
    sketch.finish(TABLE_ROWS, layout, |p| {
        let x = p.embed(x);
        let logits = p.linear_f32(x, w);
        let (ids, weights) = p.top_k(logits, routing.per_token, routing.renormalize);
        let h = p.expert_linear(x, up, ids);
        let y = p.expert_linear(h, down, ids);
        then(p, y, weights);
    })
}

/// Case of [`Op::ExpertLinear`](nvllm_core::Op::ExpertLinear): one row a token, then one row a
/// choice.
pub fn expert_linear(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let shape = [1..130_usize, 1..40_usize, 1..40_usize];
    let trials =
        (numbers(backend), flat(), routings(), shape).prop_map(|(numbers, layout, routing, shape)| {
            experts(numbers, layout, &routing, shape, |_, _, _| {})
        });
    check("expert_linear", backend, settings, trials)
}

/// Case of [`Op::WeightedSum`](nvllm_core::Op::WeightedSum).
pub fn weighted_sum(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let shape = [1..20_usize, 1..20_usize, 1..130_usize];
    let trials =
        (numbers(backend), flat(), routings(), shape).prop_map(|(numbers, layout, routing, shape)| {
            experts(numbers, layout, &routing, shape, |p, y, weights| {
                p.weighted_sum(y, weights);
            })
        });
    check("weighted_sum", backend, settings, trials)
}

fn collective(
    numbers: Numbers,
    layout: Layout,
    cols: usize,
    op: fn(&mut Recorder, ValueId) -> ValueId,
) -> Trial {
    let mut sketch = Sketch::new(numbers);
    let x = sketch.table("x", TABLE_ROWS, cols);
    sketch.finish(TABLE_ROWS, layout, |p| {
        let x = p.embed(x);
        op(p, x);
    })
}

/// Case of [`Op::AllReduce`](nvllm_core::Op::AllReduce) in a world of one.
pub fn all_reduce(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), flat(), 1..200_usize)
        .prop_map(|(numbers, layout, cols)| collective(numbers, layout, cols, Recorder::all_reduce));
    check("all_reduce", backend, settings, trials)
}

/// Case of [`Op::AllGather`](nvllm_core::Op::AllGather) in a world of one.
pub fn all_gather(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = (numbers(backend), flat(), 1..200_usize)
        .prop_map(|(numbers, layout, cols)| collective(numbers, layout, cols, Recorder::all_gather));
    check("all_gather", backend, settings, trials)
}
