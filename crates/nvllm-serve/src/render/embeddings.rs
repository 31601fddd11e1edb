//! Embeddings: of length 1, as numbers or as base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nvllm_engine::Event;

use crate::ending::Ending;
use crate::error::ApiError;
use crate::submission::Submission;
use crate::wire::embeddings::{EmbeddingData, Vector};

/// How embeddings are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmbeddingRenderer {
    /// Numbers of each.
    pub(crate) dimensions: usize,
    /// Whether as base64.
    pub(crate) base64: bool,
}

impl EmbeddingRenderer {
    /// All of a submission's, in the order of its prompts. Errors if one failed.
    pub(crate) async fn whole(self, mut submission: Submission) -> Result<Vec<EmbeddingData>, ApiError> {
        let mut data = Vec::new();
        while let Some(news) = submission.next().await {
            match news.event {
                Event::Embedding { values } => {
                    let embedding = self.vector(values);
                    data.push(EmbeddingData { object: "embedding", index: news.choice, embedding });
                }
                Event::Finished(finished) => {
                    Ending::of(&finished, &[])?;
                    if !data.iter().any(|of: &EmbeddingData| of.index == news.choice) {
                        return Err(ApiError::internal("a request ended without its embedding"));
                    }
                }
                Event::PromptRow { .. } | Event::Token { .. } => {}
            }
        }
        data.sort_by_key(|of| of.index);
        Ok(data)
    }

    fn vector(self, mut values: Vec<f32>) -> Vector {
        values.truncate(self.dimensions);
        normalize(&mut values);
        if !self.base64 {
            return Vector::Floats(values);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Vector::Base64(STANDARD.encode(bytes))
    }
}

/// Brings a vector to length 1; one of zeros stays so.
fn normalize(values: &mut [f32]) {
    let squares: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
    if squares > 0.0 {
        let scale = squares.sqrt().recip();
        values.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn a_vector_gets_the_length_1() {
        for (mut values, expected) in [
            ([3.0, -4.0], [0.6, -0.8]),
            ([0.0, 0.0], [0.0, 0.0]),
            // Squares that f32 does not have.
            ([3e30, 4e30], [0.6, 0.8]),
            ([3e-30, 4e-30], [0.6, 0.8]),
        ] {
            normalize(&mut values);
            // Of the numbers that are not whole in f32 the last bit may differ.
            let near =
                values.iter().zip(expected).all(|(got, wanted): (&f32, f32)| (got - wanted).abs() < 1e-6);
            assert!(near, "{values:?}, not {expected:?}");
        }
    }
}
