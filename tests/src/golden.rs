//! What a backend makes of a fixture, and how far that is from what is expected.

use nvllm_core::{Activations, Backend, ModelSpec, Op, Reference, TokenId};

use crate::{Fixture, Layout, Session};

/// Every fixture, with the tolerance on logits and hidden states that f32 activations are held to.
/// `d`'s RoPE angles are f32 in the reference implementation.
pub const FIXTURES: [(&str, f32); 16] = [
    ("a_qwen3_tied_gqa", 1e-3),
    ("b_qwen3_untied_sharded", 1e-3),
    ("c_qwen3_headdim32", 1e-3),
    ("d_qwen3_theta1e6_longpos", 5e-3),
    ("e_qwen3_yarn", 1e-3),
    ("f_qwen3_sliding", 1e-3),
    ("g_qwen3_attnbias", 1e-3),
    ("h1_qwen3moe_norm", 1e-3),
    ("h2_qwen3moe_nonorm_sparse2", 1e-3),
    ("i_llama_smollm2like", 1e-3),
    ("i2_llama3_rope", 1e-3),
    ("j_qwen2_qkvbias", 1e-3),
    ("k_mistral_window", 1e-3),
    ("l_llama2", 1e-3),
    ("m_qwen2_window_yarn", 1e-3),
    ("o_llama_bias", 1e-3),
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

impl Distance {
    /// Not NaN, not above `tolerance`, and the same greedy runs.
    pub fn within(&self, tolerance: f32) -> bool {
        self.logits <= tolerance && self.hidden <= tolerance && self.num_equal == self.num_greedy
    }
}

/// What bf16 activations make of a fixture.
#[derive(Clone, Copy, Debug)]
pub struct Rounded {
    /// From the reference to the backend, both rounding at the same points: the backend fuses
    /// nothing that was not recorded so.
    pub apart: Distance,
    /// From transformers in f32 to that reference: what rounding alone moves.
    pub rounding: Distance,
    /// From transformers in f32 to the backend as it runs, with all that it fuses.
    pub off: Distance,
}

impl Rounded {
    /// Where the rounding points are the same, another order of an f32 sum may tip a rounding: that
    /// must not amount to more than the rounding itself does. Where they are not, the distance to
    /// f32 must stay within twice what rounding moves.
    pub fn holds(&self) -> bool {
        let most = self.rounding.logits;
        self.apart.logits <= most && self.off.logits <= 2.0 * most
    }
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
        self.run_spec(backend, self.spec(config), activations)
    }

    /// What `backend` makes of bf16 activations.
    pub fn rounded(&self, backend: &dyn Backend) -> Rounded {
        let bf16 = Activations::Bf16;
        let mut recorded = self.spec("config.json");
        recorded.unfused = Op::FUSED.to_vec();
        let exact = self.expected();
        let reference = self.run_spec(&Reference::default(), recorded.clone(), bf16);
        Rounded {
            apart: self.run_spec(backend, recorded, bf16).distance(&reference),
            rounding: reference.distance(&exact),
            off: self.run(backend, "config.json", bf16).distance(&exact),
        }
    }

    fn run_spec(&self, backend: &dyn Backend, mut spec: ModelSpec, activations: Activations) -> Values {
        let labels: Vec<_> = (0..self.hidden.len()).map(|layer| format!("hidden.{layer}")).collect();
        labels.iter().for_each(|label| spec.keep(label).expect("the model labels its hidden states"));
        let mut session = Session::new(backend, &spec, &self.source(), activations, Layout::default());
        let mut values = Values { logits: Vec::new(), hidden: Vec::new(), greedy: Vec::new() };
        for sequence in &self.sequences {
            let (ids, positions) = (&sequence.input_ids, &sequence.position_ids);
            session.clear();
            values.logits.push(session.logits(ids, positions));
            if sequence.seq == 0 {
                let kept = |label: &String| session.exe.kept(label).expect("readable").expect("a kept value");
                values.hidden = labels.iter().map(|l| kept(l).to_f32()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_of_any_kind_fails() {
        let good = Distance { logits: 1e-4, hidden: 1e-4, num_equal: 2, num_greedy: 2 };
        assert!(good.within(1e-3));
        for bad in [
            Distance { logits: 2e-3, ..good },
            Distance { hidden: 2e-3, ..good },
            Distance { logits: f32::NAN, ..good },
            Distance { num_equal: 1, ..good },
        ] {
            assert!(!bad.within(1e-3), "{bad:?}");
        }
        let rounded = Rounded { apart: good, rounding: good, off: good };
        assert!(rounded.holds());
        let far = Distance { logits: 2.1e-4, ..good };
        assert!(!Rounded { apart: far, ..rounded }.holds() && !Rounded { off: far, ..rounded }.holds());
        let nan = Distance { logits: f32::NAN, ..good };
        assert!(!Rounded { rounding: nan, ..rounded }.holds());
    }
}
