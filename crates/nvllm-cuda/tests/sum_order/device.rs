//! The statement of the order against a GPU.

use nvllm_conformance::MemorySource;
use nvllm_core::{DType, Numerics, WeightSource as _};
use nvllm_cuda::Vendor;

use super::{KNOWN, TensorCore, fitting};
use crate::{backend, fast, load_rows, product, uneven_layer};

/// Holds the product of `rows` rows, as numbers, to one statement of the order, and prints the
/// tensor core by which it holds.
fn holds_the_order(
    what: &str,
    source: &MemorySource,
    num_cols: usize,
    rows: &[u32],
    sum: fn(TensorCore, &[f32], &[f32]) -> f32,
) {
    let values = |name| {
        let codes = source.tensor(name).expect("it is there").codes;
        (0..codes.len() / 2).map(|at| DType::Bf16.read(&codes, at)).collect::<Vec<f32>>()
    };
    let (x, w) = (values("table"), values("weight"));
    let num_outputs = w.len() / num_cols;
    // Some outputs of all tiles, in the first and the last tile of rows and in between.
    let last = rows.len() / num_outputs - 1;
    let mut some = vec![0, 1, last / 3, last / 2, last];
    some.retain(|&row| row <= last);
    some.dedup();
    let outputs = || (0..num_outputs).step_by(61);
    let picked: Vec<(usize, usize)> =
        some.into_iter().flat_map(|row| outputs().map(move |output| (row, output))).collect();
    let place = |(row, output): (usize, usize)| {
        (&x[row % 4 * num_cols..][..num_cols], &w[output * num_cols..][..num_cols])
    };
    let got: Vec<f32> =
        picked.iter().map(|(row, output)| f32::from_bits(rows[row * num_outputs + output])).collect();
    let (major, minor) = nvllm_cuda::device_facts(0).expect("a device").capability;
    let known = KNOWN.iter().find(|(of, _)| *of == major).map(|(_, core)| *core);
    let holds = |core: TensorCore| {
        let wanted = picked.iter().map(|&at| place(at)).map(|(x, w)| sum(core, x, w));
        got.iter().zip(wanted).filter(|(got, want)| got.to_bits() != want.to_bits()).count()
    };
    let differ = known.map_or(got.len(), holds);
    if differ > 0 {
        let fitting = fitting(&got, |core, at| {
            let (x, w) = place(picked[at]);
            sum(core, x, w)
        });
        panic!(
            "{what}: {differ} of {} sums are not those of {known:?} on compute capability {major}.{minor}; \
             they are those of {fitting:?}",
            got.len()
        );
    }
    println!("{what}: {} sums are those of {known:?}", got.len());
}

/// Every kernel that a linear layer of ours has by number of rows, and an unsplit product of the
/// vendor's: each against the one statement of its order, and not against another kernel.
#[test]
fn linear_layers_sum_in_the_stated_order() {
    let backend = match backend(true) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // Few rows of W, for kernels that split K over blocks, and many.
    for (cols, outputs) in [(4096, 4096), (3072, 1024), (1000, 8192)] {
        let (spec, source) = uneven_layer(cols, outputs);
        let mut exe = load_rows(&backend, &spec, &source, Numerics::Invariant);
        for num_rows in [1, 8, 16, 32, 64, 129, 300, 600] {
            let what = format!("ours, {outputs}x{cols}, {num_rows} rows");
            holds_the_order(&what, &source, cols, &product(&mut exe, num_rows), TensorCore::split8);
        }
    }
    let Some(vendor) = fast(Vendor::Always) else { return };
    // A shape that cuBLASLt was seen not to split, whatever the number of rows.
    let (spec, source) = uneven_layer(1024, 4096);
    let mut exe = load_rows(&vendor, &spec, &source, Numerics::Fast);
    assert_eq!(exe.vendor_layers(), 1);
    for num_rows in [16, 64, 129, 600] {
        let what = format!("the vendor's, 4096x1024, {num_rows} rows");
        holds_the_order(&what, &source, 1024, &product(&mut exe, num_rows), TensorCore::chain);
    }
}
