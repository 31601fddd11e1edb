//! Published number formats of less than 16 bits: tables of 16 values, FP8, powers of two.

/// A table of 16 values for 4-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `NormalFloat`: quantiles of a normal distribution, within +-1 (Dettmers et al. 2023,
    /// "`QLoRA`", appendix E).
    Nf4,
    /// FP4: 2 exponent bits and 1 mantissa bit, sign on top (OCP Microscaling, 2023; MXFP4 and
    /// NVFP4).
    E2M1,
    /// GGUF's non-linear 4-bit values (`kvalues_iq4nl` of ggml's `ggml-common.h`; `IQ4_NL` and
    /// `IQ4_XS`).
    Iq4Nl,
    /// bitsandbytes' FP4: magnitudes within 1 in an order of its own, sign on top; there is no -0.
    /// All but 1/192 are those of [`E2M1`](Self::E2M1) divided by 6.
    BnbFp4,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Nf4, Self::E2M1, Self::Iq4Nl, Self::BnbFp4];

    /// The value of each code.
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::E2M1 => &E2M1,
            Self::Iq4Nl => &IQ4_NL,
            Self::BnbFp4 => &BNB_FP4,
        }
    }
}

/// As f32; the paper prints the same digits.
#[allow(clippy::unreadable_literal, clippy::excessive_precision)]
static NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

static E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

static IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Divided by 12 in f32, as the package makes them.
static BNB_FP4: [f32; 16] = {
    const TWELFTHS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let (mut values, mut code) = ([0.0; 16], 1);
    while code < 8 {
        values[code] = TWELFTHS[code] / 12.0;
        values[code + 8] = -values[code];
        code += 1;
    }
    values
};

/// The largest E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

/// The value of an E4M3 byte: sign, 4 exponent bits of bias 7, 3 mantissa bits; `0x7f` and `0xff`
/// are NaN.
pub fn e4m3_to_f32(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2_f32.powi(-9),
        _ => (8.0 + mantissa) * 2_f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

/// The E4M3 byte nearest to `x`, of two the one with an even mantissa; beyond +-448 the largest.
/// NaN stays NaN.
pub fn e4m3_from_f32(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let size = x.abs().min(E4M3_MAX);
    if x.is_nan() {
        return sign | 0x7f;
    }
    // Neighbours are 2^-9 apart below 2^-6, and an eighth of the power of two at or below them
    // above that.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    // In 0..=16; 16 is the next power of two, and the sum carries into the exponent field.
    let steps = (size * 2_f32.powi(3 - exponent)).round_ties_even() as u8;
    let field = ((exponent + 6) as u8) << 3;
    sign | (field + steps)
}

/// The value of an E8M0 byte: `2^(byte - 127)`; 255 is NaN.
pub fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        // Below the smallest normal f32.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 1 of "FP8 Formats for Deep Learning" (Micikevicius et al. 2022) and the OCP document's
    /// extremes.
    #[test]
    fn e4m3_has_its_published_values() {
        let known = [
            (0x00, 0.0),
            (0x01, 2_f32.powi(-9)),
            (0x07, 0.875 * 2_f32.powi(-6)),
            (0x08, 2_f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ];
        for (byte, value) in known {
            assert_eq!(e4m3_to_f32(byte), value, "{byte:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn every_e4m3_byte_survives_a_round_trip() {
        for byte in 0..=255 {
            let value = e4m3_to_f32(byte);
            assert_eq!(e4m3_from_f32(value), byte, "{value}");
        }
    }

    /// Against a search through all values, ties to the even byte.
    #[test]
    fn e4m3_rounds_to_the_nearest_even_and_saturates() {
        let bytes: Vec<u8> = (0..=0x7e).collect();
        let nearest = |x: f32| {
            let off = |byte: &u8| f64::from(x) - f64::from(e4m3_to_f32(*byte));
            let order =
                |a: &&u8, b: &&u8| off(a).abs().total_cmp(&off(b).abs()).then((*a % 2).cmp(&(*b % 2)));
            *bytes.iter().min_by(order).unwrap()
        };
        let halves = bytes.windows(2).map(|pair| f32::midpoint(e4m3_to_f32(pair[0]), e4m3_to_f32(pair[1])));
        let around = halves.flat_map(|x| [x, x.next_up(), x.next_down()]);
        for x in around.chain((0..4000).map(|i| (i as f32 * 0.37).powi(2) / 1000.0)) {
            let x = x.min(448.0);
            assert_eq!(e4m3_from_f32(x), nearest(x), "{x}");
            assert_eq!(e4m3_from_f32(-x), 0x80 | nearest(x), "-{x}");
        }
        assert_eq!([1e9, f32::INFINITY, f32::NEG_INFINITY].map(e4m3_from_f32), [0x7e, 0x7e, 0xfe]);
        assert_eq!(e4m3_from_f32(f32::NAN) & 0x7f, 0x7f);
    }

    #[test]
    fn e8m0_is_a_power_of_two() {
        for byte in 0..=254_u8 {
            assert_eq!(f64::from(e8m0_to_f32(byte)), 2_f64.powi(i32::from(byte) - 127));
        }
        assert!(e8m0_to_f32(255).is_nan());
    }

    #[test]
    fn tables_have_the_order_of_their_sources() {
        for table in [Table::Nf4, Table::Iq4Nl] {
            assert!(table.values().windows(2).all(|pair| pair[0] < pair[1]), "{table:?}");
        }
        // E2M1 by its fields: bias 1, subnormals of 0.5.
        for (code, &value) in Table::E2M1.values().iter().enumerate() {
            let (exponent, mantissa) = (code >> 1 & 3, (code & 1) as f32);
            let size = if exponent == 0 {
                mantissa / 2.0
            } else {
                (2.0 + mantissa) * 2_f32.powi(exponent as i32 - 2)
            };
            assert_eq!(value, if code < 8 { size } else { -size });
        }
        assert_eq!((Table::Nf4.values()[7], Table::Iq4Nl.values()[8]), (0.0, 1.0));
        let sizes: [f32; 8] = [0.0, 1.0 / 192.0, 2.0 / 3.0, 1.0, 1.0 / 3.0, 0.5, 1.0 / 6.0, 0.25];
        for (code, size) in sizes.into_iter().enumerate() {
            let values = Table::BnbFp4.values();
            let negative = if code == 0 { 0.0_f32 } else { -size };
            assert_eq!(
                (values[code].to_bits(), values[code + 8].to_bits()),
                (size.to_bits(), negative.to_bits())
            );
        }
    }
}
