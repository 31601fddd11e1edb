//! Quantisation of a linear layer's input, which some formats ask for: the layer multiplies what
//! comes out of it.
//!
//! Definition, in f32, each operation rounded; `x` is a row of the input in the activation dtype:
//! - the scale `s` is the largest magnitude of the token's row (or of a group of its columns)
//!   divided by 127 for I8 and by 448 for E4M3, or the tensor's own if it is static;
//! - the code is `x / s` (a division, no multiplication by a reciprocal), rounded to the nearest
//!   value of the type, of two the even one, and clamped to -128..=127 or +-448;
//! - the layer sees `s * code`. If `s` is 0 it sees zeros.
//!
//! An embedding has no input, so that nothing is quantised there.

use std::borrow::Cow;

use super::table::{E4M3_MAX, e4m3_from_f32, e4m3_to_f32};

/// How the input of a linear layer is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActQuant {
    /// To 8-bit integers, one scale a token.
    DynTokenI8,
    /// To FP8 E4M3, one scale a token.
    DynTokenE4M3,
    /// To FP8 E4M3, one scale for so many consecutive columns of a token (as `DeepSeek-V3` runs
    /// 128x128 blocks).
    DynGroupE4M3(usize),
    /// To 8-bit integers, by the tensor's `act_scale`.
    StaticI8,
    /// To FP8 E4M3, by the tensor's `act_scale`.
    StaticE4M3,
}

impl ActQuant {
    /// Whether the scale is stored with the tensor.
    pub const fn is_static(self) -> bool {
        matches!(self, Self::StaticI8 | Self::StaticE4M3)
    }

    pub(super) fn is_empty_group(self) -> bool {
        self == Self::DynGroupE4M3(0)
    }

    const fn is_integer(self) -> bool {
        matches!(self, Self::DynTokenI8 | Self::StaticI8)
    }

    /// A row of the input as the layer sees it; `static_scale` is the tensor's and read by static
    /// kinds only.
    pub fn apply(self, static_scale: f32, x: &mut [f32]) {
        let group = if let Self::DynGroupE4M3(cols) = self { cols } else { x.len() };
        for x in x.chunks_mut(group.max(1)) {
            let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let most = if self.is_integer() { 127.0 } else { E4M3_MAX };
            let scale = if self.is_static() { static_scale } else { largest / most };
            for x in x {
                *x = if scale == 0.0 { 0.0 } else { scale * self.nearest(*x / scale) };
            }
        }
    }

    /// The nearest value of the code.
    fn nearest(self, x: f32) -> f32 {
        if self.is_integer() {
            x.round_ties_even().clamp(-128.0, 127.0)
        } else {
            e4m3_to_f32(e4m3_from_f32(x))
        }
    }
}

impl std::fmt::Display for ActQuant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DynTokenI8 => f.write_str("in int8 a token"),
            Self::DynTokenE4M3 => f.write_str("in FP8 a token"),
            Self::DynGroupE4M3(cols) => write!(f, "in FP8 in groups of {cols}"),
            Self::StaticI8 => f.write_str("in int8 of a static scale"),
            Self::StaticE4M3 => f.write_str("in FP8 of a static scale"),
        }
    }
}

/// What consecutive rows of a weight do to their input: parts of one weight may come with scales of
/// their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputQuant {
    /// Rows of the weight.
    pub num_rows: usize,
    /// How their input is quantised.
    pub act: Option<ActQuant>,
    /// The static scale; 1 where there is none.
    pub scale: f32,
}

impl InputQuant {
    /// The input row `x` as these rows see it.
    pub fn apply<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        let mut x = Cow::Borrowed(x);
        if let Some(act) = self.act {
            act.apply(self.scale, x.to_mut());
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(act: ActQuant, scale: f32, x: &[f32]) -> Vec<f32> {
        InputQuant { num_rows: 1, act: Some(act), scale }.apply(x).into_owned()
    }

    #[test]
    fn a_token_is_scaled_by_its_largest_magnitude() {
        // s = 1: codes are the values, halves go to the even integer.
        let x = [-127.0, 0.5, 1.5, 2.5, -0.5, 63.4];
        assert_eq!(applied(ActQuant::DynTokenI8, 9.0, &x), [-127.0, 0.0, 2.0, 2.0, 0.0, 63.0]);
        // s = 1: between 16 and 32 neighbours are 2 apart.
        let x = [448.0, 17.0, 19.0, -18.5, 0.01];
        assert_eq!(applied(ActQuant::DynTokenE4M3, 9.0, &x), [448.0, 16.0, 20.0, -18.0, 0.009_765_625]);
    }

    #[test]
    fn a_static_scale_clamps_what_it_does_not_reach() {
        assert_eq!(applied(ActQuant::StaticI8, 0.5, &[0.6, 63.5, 1e4, -1e4]), [0.5, 63.5, 63.5, -64.0]);
        assert_eq!(applied(ActQuant::StaticE4M3, 2.0, &[2.0, 1e4, -1e4]), [2.0, 896.0, -896.0]);
    }

    #[test]
    fn groups_have_scales_of_their_own_and_nothing_stays_nothing() {
        let x = [448.0, 17.0, 4.48, 0.17, 0.0];
        let groups = applied(ActQuant::DynGroupE4M3(2), 9.0, &x);
        assert_eq!(groups[..2], [448.0, 16.0]);
        assert!((groups[2] - 4.48).abs() < 1e-6 && (groups[3] - 0.16).abs() < 1e-6, "{groups:?}");
        assert_eq!(groups[4], 0.0);
        assert_eq!(applied(ActQuant::DynTokenI8, 9.0, &[0.0, -0.0]), [0.0, 0.0]);
        assert_eq!(InputQuant { num_rows: 1, act: None, scale: 1.0 }.apply(&[0.3]), [0.3].as_slice());
    }
}
