//! What a backend makes of a fixture, and how far that is from what is expected.

use nvllm_core::{Activations, Backend, TokenId};

use crate::{Fixture, Layout, Session};

/// Qwen3's fixtures, each with the tolerance on logits and hidden states that f32 activations are held to. `d`'s RoPE
/// angles are f32 in the reference implementation.
pub const QWEN3_FIXTURES: [(&str, f32); 9] = [
    ("a_qwen3_tied_gqa", 1e-3),
    ("b_qwen3_untied_sharded", 1e-3),
    ("c_qwen3_headdim32", 1e-3),
    ("d_qwen3_theta1e6_longpos", 5e-3),
    ("e_qwen3_yarn", 1e-3),
    ("f_qwen3_sliding", 1e-3),
    ("g_qwen3_attnbias", 1e-3),
    ("h1_qwen3moe_norm", 1e-3),
    ("h2_qwen3moe_nonorm_sparse2", 1e-3),
];

/// Everything that is compared of a fixture: of Hugging Face's transformers, or of a backend.
pub struct Values {
    /// Logits `[T, vocab]` of each sequence.
    pub logits: Vec<Vec<f32>>,
    /// Hidden states of sequence 0 by layer, `[T, hidden]`.
    pub hidden: Vec<Vec<f32>>,
    /// Greedy continuations, of the sequences that have one recorded.
    pub greedy: Vec<Vec<TokenId>>,
}

/// The largest differences between two [`Values`].
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Over all logits; NaN if any is.
    pub logits: f32,
    /// Over all hidden states; NaN if any is.
    pub hidden: f32,
    /// Greedy continuations that are equal.
    pub num_equal: usize,
    /// Greedy continuations.
    pub num_greedy: usize,
}

impl Fixture {
    /// What Hugging Face's transformers computes, in f32.
    pub fn expected(&self) -> Values {
        let greedy = self.sequences.iter().map(|s| s.greedy_24.clone()).filter(|ids| !ids.is_empty());
        Values {
            logits: self.sequences.iter().map(|s| s.logits.clone()).collect(),
            hidden: self.hidden.clone(),
            greedy: greedy.collect(),
        }
    }

    /// What `backend` computes from the model that the fixture's file `config` describes.
    pub fn run(&self, backend: &dyn Backend, config: &str, activations: Activations) -> Values {
        let mut spec = self.spec(config, nvllm_model_qwen3::build);
        let labels: Vec<_> = (0..self.hidden.len()).map(|layer| format!("hidden.{layer}")).collect();
        labels.iter().for_each(|label| spec.keep(label).expect("the model labels its hidden states"));
        let mut session = Session::new(backend, &spec, &self.source(), activations, Layout::default());
        let mut values = Values { logits: Vec::new(), hidden: Vec::new(), greedy: Vec::new() };
        for sequence in &self.sequences {
            let (ids, positions) = (&sequence.input_ids, &sequence.position_ids);
            session.clear();
            values.logits.push(session.logits(ids, positions));
            if sequence.seq == 0 {
                let kept = |label: &String| session.exe.kept(label).expect("a kept value");
                values.hidden = labels.iter().map(|l| kept(l).to_host().expect("host").to_f32()).collect();
            }
            if !sequence.greedy_24.is_empty() {
                session.clear();
                values.greedy.push(session.greedy(ids, positions, sequence.greedy_24.len()));
            }
        }
        values
    }
}

impl Values {
    /// How far `other` is.
    ///
    /// # Panics
    /// If they are not of the same fixture.
    pub fn distance(&self, other: &Self) -> Distance {
        assert_eq!(self.greedy.len(), other.greedy.len(), "values of one fixture");
        Distance {
            logits: worst(&self.logits, &other.logits),
            hidden: worst(&self.hidden, &other.hidden),
            num_equal: self.greedy.iter().zip(&other.greedy).filter(|(a, b)| a == b).count(),
            num_greedy: self.greedy.len(),
        }
    }
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let lens = |rows: &[Vec<f32>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lens(a), lens(b), "values of one fixture");
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() || worst.is_nan() { f32::NAN } else { worst.max(d) })
}
