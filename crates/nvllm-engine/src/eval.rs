//! How well a model predicts a text, and how far it is from another one: what quantisation costs.
//!
//! **Windows.** A text longer than a window is read in windows of `len` tokens, each `stride`
//! tokens after the one before. Every token but the text's first is scored once: by the first
//! window that holds it, so with at least `len - stride` tokens before it but for those of the
//! first window. Nothing is carried from one window to the next.
//!
//! **Figures**, over the scored tokens: perplexity is `exp` of the mean negative log-likelihood.
//! Against a reference with distributions `p`, where the model has `q`: the mean of the
//! Kullback-Leibler divergence `KL(p || q) = sum p ln(p / q)` in nats, its largest value, and the
//! share of positions whose most likely token is the reference's. Softmax and sums are in f64.

use nvllm_core::{HostTensor, TokenId};

use crate::{Engine, EngineError, Event, Request, RequestStream, Result};

/// How a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window, at least 2.
    pub len: usize,
    /// Tokens from one window's beginning to the next one's, fewer than `len`: a token is scored by
    /// what comes before it.
    pub stride: usize,
}

/// A window: its tokens, and those of them that it scores.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    start: usize,
    end: usize,
    scores_from: usize,
}

impl Windows {
    fn over(self, num_tokens: usize) -> Vec<Window> {
        let (mut windows, mut scored) = (Vec::new(), 1);
        for start in (0..num_tokens).step_by(self.stride.max(1)) {
            let end = num_tokens.min(start + self.len);
            if scored < end {
                windows.push(Window { start, end, scores_from: scored });
                scored = end;
            }
        }
        windows
    }
}

/// What a model made of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Tokens that were scored.
    pub tokens: usize,
    /// Mean negative log-likelihood of a token, in nats.
    pub nll: f64,
    /// Against the reference, if there is one.
    pub against: Option<Against>,
}

impl Evaluation {
    /// `exp` of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        self.nll.exp()
    }
}

/// How far a model is from its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Against {
    /// Mean negative log-likelihood of a token under the reference, in nats.
    pub nll: f64,
    /// Mean divergence of a token's distribution, in nats.
    pub mean_kl: f64,
    /// The largest divergence.
    pub largest_kl: f64,
    /// Share of the tokens at whose place both find the same one most likely.
    pub top1: f64,
}

/// Reads `ids` with `engine`, and beside it with `reference`, which has the same vocabulary; says
/// after each window how many tokens of how many are scored. Both engines must hand out the logits
/// of a window's tokens ([`LoadOptions::max_num_logits`](crate::LoadOptions)).
///
/// Errors if the windows do not fit the engines, there are fewer than two tokens, or a model fails.
pub fn evaluate(
    engine: &Engine,
    reference: Option<&Engine>,
    ids: &[TokenId],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let bad = |problem: String| Err(EngineError::RequestField { field: "window", problem });
    if windows.len < 2 || windows.stride == 0 || windows.stride >= windows.len {
        let Windows { len, stride } = windows;
        return bad(format!(
            "has {len} tokens at a stride of {stride}; give at least 2, and a stride below that"
        ));
    }
    if ids.len() < 2 {
        return bad("has nothing to score: the text is shorter than two tokens".into());
    }
    let (mut sums, total) = (Sums::default(), ids.len() - 1);
    for window in windows.over(ids.len()) {
        let ids = &ids[window.start..window.end];
        let of = |engine: &Engine| Ok::<_, EngineError>(Rows(engine.stream(request(ids))?));
        let (mut rows, mut other) = (of(engine)?, reference.map(of).transpose()?);
        for at in 0..ids.len() - 1 {
            let row = rows.next()?;
            let other = other.as_mut().map(Rows::next).transpose()?;
            if window.start + at + 1 >= window.scores_from {
                sums.add(ids[at + 1].index(), &row, other.as_deref());
            }
        }
        progress(sums.tokens, total);
    }
    Ok(sums.mean(reference.is_some()))
}

fn request(ids: &[TokenId]) -> Request {
    Request { prompt: ids.to_vec(), max_tokens: Some(0), logits: true, ..Request::default() }
}

/// The logits of a prompt's tokens, one after another.
struct Rows(RequestStream);

impl Rows {
    fn next(&mut self) -> Result<Vec<f32>> {
        for event in &mut self.0 {
            match event {
                Event::PromptRow { logits: Some(row), .. } => return Ok(HostTensor::to_f32(&row)),
                Event::Finished(finished) => {
                    let reason = finished.error.unwrap_or_else(|| "it ended before its text did".into());
                    return Err(EngineError::Stopped { reason });
                }
                _ => {}
            }
        }
        Err(EngineError::Stopped { reason: "it handed out no logits".into() })
    }
}

/// Sums over the scored tokens.
#[derive(Default)]
struct Sums {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    kl: f64,
    largest_kl: f64,
    agreed: usize,
}

impl Sums {
    fn add(&mut self, token: usize, row: &[f32], reference: Option<&[f32]>) {
        let norm = log_sum_exp(row);
        self.tokens += 1;
        self.nll += norm - f64::from(row[token]);
        let Some(reference) = reference else { return };
        let reference_norm = log_sum_exp(reference);
        self.reference_nll += reference_norm - f64::from(reference[token]);
        let term = |(&p, &q): (&f32, &f32)| {
            let (ln_p, ln_q) = (f64::from(p) - reference_norm, f64::from(q) - norm);
            ln_p.exp() * (ln_p - ln_q)
        };
        // Rounding may bring equal distributions a little below 0.
        let kl = reference.iter().zip(row).map(term).sum::<f64>().max(0.0);
        self.kl += kl;
        self.largest_kl = self.largest_kl.max(kl);
        self.agreed += usize::from(most_likely(row) == most_likely(reference));
    }

    fn mean(&self, has_reference: bool) -> Evaluation {
        let tokens = self.tokens as f64;
        let against = Against {
            nll: self.reference_nll / tokens,
            mean_kl: self.kl / tokens,
            largest_kl: self.largest_kl,
            top1: self.agreed as f64 / tokens,
        };
        let against = has_reference.then_some(against);
        Evaluation { tokens: self.tokens, nll: self.nll / tokens, against }
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + row.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}

/// The first of the largest.
fn most_likely(row: &[f32]) -> usize {
    let largest = |best: usize, (at, x): (usize, &f32)| if *x > row[best] { at } else { best };
    row.iter().enumerate().fold(0, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_but_the_first_is_scored_once_by_the_first_window_that_holds_it() {
        let over = |len, stride, num| {
            let windows = Windows { len, stride }.over(num);
            windows.iter().map(|w| (w.start, w.scores_from, w.end)).collect::<Vec<_>>()
        };
        assert_eq!(over(4, 2, 9), [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 9)]);
        assert_eq!(over(4, 3, 9), [(0, 1, 4), (3, 4, 7), (6, 7, 9)]);
        assert_eq!(over(100, 50, 9), [(0, 1, 9)]);
    }

    #[test]
    fn sums_are_those_of_the_definitions() {
        let mut sums = Sums::default();
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), each shifted: a softmax does not see that.
        let p = [2_f32.ln(), 0.0, 0.0];
        let q = [5.0, 5.0 + 2_f32.ln(), 5.0];
        sums.add(0, &q, Some(&p));
        sums.add(0, &p, Some(&p));
        let Evaluation { tokens, nll, against } = sums.mean(true);
        let against = against.unwrap();
        let ln2 = std::f64::consts::LN_2;
        let near = |a: f64, b: f64| (a - b).abs() < 1e-7;
        assert!(tokens == 2 && near(nll, 1.5 * ln2) && near(against.nll, ln2), "{nll} {against:?}");
        // KL = 1/2 ln 2 - 1/4 ln 2.
        assert!(near(against.mean_kl, ln2 / 8.0) && near(against.largest_kl, ln2 / 4.0), "{against:?}");
        assert_eq!(against.top1, 0.5);
    }
}
