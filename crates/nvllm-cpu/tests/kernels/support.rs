//! Data, references and the list of kernels under test.

use half::{bf16, f16};
use nvllm_cpu::{Cpu, Elem, Isa, Kernels, Pool, PoolConfig};
use std::sync::{Arc, Once};
use std::time::Duration;

/// Kernels of every instruction set that this machine has. Prints once which are skipped, and why.
pub(crate) fn all_kernels() -> Vec<&'static Kernels> {
    static REPORT: Once = Once::new();
    REPORT.call_once(|| {
        for isa in Isa::ALL {
            match isa.missing() {
                None => eprintln!("kernels under test: {isa}"),
                Some(missing) => eprintln!("kernels SKIPPED: {isa}: this machine lacks {missing}"),
            }
        }
    });
    Isa::ALL.into_iter().filter_map(|isa| Kernels::of(isa).ok()).collect()
}

/// A pool of its own with `threads` threads.
pub(crate) fn cpu(kernels: &'static Kernels, threads: usize) -> Cpu {
    let config = PoolConfig { threads: Some(threads), pin: false, spin: Duration::from_micros(20) };
    Cpu::new(Arc::new(Pool::new(&config).unwrap()), kernels)
}

/// Splitmix64 (Steele et al., 2014): the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// Roughly normal: the sum of four uniforms, deviation 1.
    pub(crate) fn value(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5).sum();
        sum * 3.0f32.sqrt()
    }
    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// `x` as stored in `elem`.
pub(crate) fn encode(x: &[f32], elem: Elem) -> Vec<u8> {
    x.iter()
        .flat_map(|x| match elem {
            Elem::F32 => x.to_le_bytes().to_vec(),
            Elem::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
            Elem::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        })
        .collect()
}

/// What `bytes` hold.
pub(crate) fn decode(bytes: &[u8], elem: Elem) -> Vec<f32> {
    bytes
        .chunks(elem.size())
        .map(|b| match elem {
            Elem::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Elem::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Elem::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        })
        .collect()
}

/// The nearest values that `elem` can hold.
pub(crate) fn rounded(x: &[f32], elem: Elem) -> Vec<f32> {
    decode(&encode(x, elem), elem)
}

/// Half the distance of neighbouring values of `elem` at 1, plus what an f32 operation or two cost.
pub(crate) fn unit(elem: Elem) -> f64 {
    match elem {
        Elem::F32 => 4.0 * f64::from(f32::EPSILON),
        Elem::Bf16 => 1.0 / 256.0,
        Elem::F16 => 1.0 / 2048.0,
    }
}

/// Fails at the first value further from `want` than `bound(index)`.
pub(crate) fn assert_near(what: &str, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(error <= bound(i), "{what}: value {i} is {g}, should be {w} within {:e}", bound(i));
    }
}

/// Fails at the first differing bit.
pub(crate) fn assert_same(what: &str, got: &[u8], want: &[u8]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    if let Some(i) = got.iter().zip(want).position(|(g, w)| g != w) {
        panic!("{what}: byte {i} is {:#04x}, should be {:#04x}", got[i], want[i]);
    }
}
