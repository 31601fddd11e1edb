//! Rotary position embedding: frequencies and their scaling, defined once for all backends.

use std::f64::consts::PI;

/// How frequencies are changed to reach longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`. Source: Chen et al. 2023, "Extending Context Window ...
    /// via Position Interpolation".
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Source: Peng et al. 2023, "`YaRN`: Efficient Context Window Extension".
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is fully interpolated.
        beta_slow: f64,
        /// The original context.
        original_len: usize,
        /// Multiplies cos and sin.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded outward to whole dimensions.
        truncate: bool,
    },
    /// Llama 3.1's piecewise interpolation.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_len / low_freq_factor` are fully interpolated.
        low_freq_factor: f64,
        /// Wavelengths below `original_len / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The original context.
        original_len: usize,
    },
}

/// A rotation of heads of `head_dim` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Columns of one head; even.
    pub head_dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Context extension.
    pub scaling: RopeScaling,
}

impl RopeSpec {
    /// `head_dim / 2` inverse frequencies in f32, as Hugging Face computes them.
    pub fn inv_freq(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        let base = |i: usize| self.theta.powf(-((2 * i) as f64) / self.head_dim as f64);
        (0..half).map(|i| self.scale(i, base(i)) as f32).collect()
    }

    /// The factor on cos and sin (`YaRN`'s attention factor; 1 otherwise).
    pub const fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// cos and sin of one position for each inverse frequency, times the attention factor,
    /// interleaved `[cos, sin]`.
    ///
    /// The angle is the f32 product `position * inv_freq`, as in the reference implementation; its
    /// cosine and sine are then exact to f32.
    pub fn rotation(&self, position: u32, inv_freq: &[f32]) -> Vec<[f32; 2]> {
        let factor = f64::from(self.attention_factor());
        inv_freq
            .iter()
            .map(|&f| {
                let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                [(cos * factor) as f32, (sin * factor) as f32]
            })
            .collect()
    }

    fn scale(&self, i: usize, freq: f64) -> f64 {
        match self.scaling {
            RopeScaling::None => freq,
            RopeScaling::Linear { factor } => freq / factor,
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_len, truncate, .. } => {
                let (low, high) = self.yarn_range(beta_fast, beta_slow, original_len, truncate);
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                freq / factor * ramp + freq * (1.0 - ramp)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_len } => {
                let (len, wavelen) = (original_len as f64, 2.0 * PI / freq);
                if wavelen < len / high_freq_factor {
                    freq
                } else if wavelen > len / low_freq_factor {
                    freq / factor
                } else {
                    let smooth = (len / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * freq / factor + smooth * freq
                }
            }
        }
    }

    /// Dimensions between which `YaRN` ramps from extrapolation to interpolation.
    fn yarn_range(&self, beta_fast: f64, beta_slow: f64, original_len: usize, truncate: bool) -> (f64, f64) {
        let dim = self.head_dim as f64;
        let correction = |rotations: f64| {
            dim * (original_len as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(dim - 1.0);
        if low == high {
            high += 0.001;
        }
        (low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_preserves_length_and_starts_at_identity() {
        let spec = RopeSpec { head_dim: 16, theta: 1e6, scaling: RopeScaling::None };
        let freq = spec.inv_freq();
        assert_eq!(freq[0], 1.0);
        assert!(spec.rotation(0, &freq).iter().all(|&[c, s]| c == 1.0 && s == 0.0));
        for [c, s] in spec.rotation(40_008, &freq) {
            assert!((c * c + s * s - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn yarn_keeps_high_and_interpolates_low_frequencies() {
        let plain = RopeSpec { head_dim: 64, theta: 1e6, scaling: RopeScaling::None };
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_len: 32_768,
            attention_factor: 1.0,
            truncate: true,
        };
        let yarn = RopeSpec { scaling, ..plain.clone() }.inv_freq();
        let plain = plain.inv_freq();
        assert_eq!(yarn[0], plain[0]);
        assert!((yarn[31] / plain[31] - 0.25).abs() < 1e-6);
    }
}
