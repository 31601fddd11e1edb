//! Philox4x32-10: random numbers as a function of a key and a counter.
//!
//! Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words for a key and a counter.
pub const fn philox4x32(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut key = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    let mut round = 0;
    while round < 10 {
        let (a, b) = (MULTIPLIERS[0] as u64 * c[0] as u64, MULTIPLIERS[1] as u64 * c[2] as u64);
        c = [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    c
}

/// The uniform in (0, 1) of one vocabulary entry: 24 bits, never 0 or 1.
///
/// `position` is the index in its sequence of the token that is being drawn.
pub fn uniform(seed: u64, choice: u32, position: u32, token: u32) -> f64 {
    let words = philox4x32(seed, [position, choice, token / 4, 0]);
    (f64::from(words[(token % 4) as usize] >> 8) + 0.5) / f64::from(1 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the paper's reference implementation (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let key = (0x299f_31d0_u64 << 32) | 0xa409_3822;
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32(key, counter), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn uniforms_are_inside_and_fill_the_interval() {
        let draws: Vec<f64> = (0..40_000).map(|t| uniform(7, 0, 3, t)).collect();
        assert!(draws.iter().all(|&u| u > 0.0 && u < 1.0));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
    }
}
