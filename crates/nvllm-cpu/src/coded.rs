//! A matrix of codes in the kernels' layout, see `generic/coded.rs` of `nvllm-cpu-kernels`.

use bytes::Bytes;
use nvllm_cpu_kernels::{CodedForm, CodedRows, Codes, Formula, MAX_INT8_K};

use crate::error::ensure;
use crate::{Elem, Result};

/// Rows of codes, with their scales and offsets.
#[derive(Clone, Debug)]
pub struct Coded {
    form: CodedForm,
    num_rows: usize,
    codes: Bytes,
    scales: Bytes,
    offsets: Bytes,
    /// For integer products, the sum of each row's codes.
    sums: Vec<i32>,
}

impl Coded {
    /// Rows in `form`; `offsets` are empty where its formula has none.
    ///
    /// # Errors
    /// The bytes are not `num_rows` rows of the form, or no kernel takes it.
    pub fn new(form: CodedForm, num_rows: usize, [codes, scales, offsets]: [Bytes; 3]) -> Result<Self> {
        let op = "coded matrix";
        ensure!(form.k > 0 && form.group > 0, op, "a group or a row has no columns");
        ensure!(
            form.group >= form.k || form.group.is_multiple_of(form.block()),
            op,
            "groups of {} columns; multiples of {} are supported",
            form.group,
            form.block()
        );
        let plain = form.formula == Formula::Symmetric && form.scale == Elem::F32;
        let wide = form.formula != Formula::Affine || form.scale == Elem::F32;
        let wide = wide && form.formula != Formula::Midpoint;
        let known = match form.codes {
            Codes::E4m3 => plain,
            Codes::I8 => wide,
            Codes::Table(_) => form.formula == Formula::Symmetric,
            Codes::U4 => true,
        };
        ensure!(known && form.scale != Elem::Bf16, op, "no kernel takes {form:?}");
        let groups = num_rows * form.groups() * form.scale.size();
        let offset_bytes = if form.has_offsets() { groups } else { 0 };
        let expected = [num_rows * form.row_bytes(), groups, offset_bytes];
        let held = [codes.len(), scales.len(), offsets.len()];
        ensure!(held == expected, op, "{held:?} bytes of codes, scales and offsets; {expected:?} are needed");
        Ok(Self { form, num_rows, codes, scales, offsets, sums: Vec::new() })
    }

    /// The same, multiplied with inputs that are rounded to 8 bits, a scale a token, in integers.
    ///
    /// # Errors
    /// The codes are not signed bytes with one f32 scale a row, or rows are too long.
    pub fn with_int8_inputs(mut self) -> Result<Self> {
        let CodedForm { codes, formula, scale, group, k } = self.form;
        let fits = codes == Codes::I8 && formula == Formula::Symmetric && scale == Elem::F32 && group >= k;
        ensure!(fits && k <= MAX_INT8_K, "coded matrix", "no integer kernel takes {:?}", self.form);
        let sum = |row: &[u8]| row.iter().map(|&code| i32::from(code as i8)).sum();
        self.sums = self.codes.chunks(self.form.row_bytes()).map(sum).collect();
        Ok(self)
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.form.k
    }

    /// Bytes held, mapped or copied.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() + self.offsets.len() + size_of_val(&self.sums[..])
    }

    pub(crate) fn form(&self) -> &CodedForm {
        &self.form
    }

    /// Bytes that a row takes where a kernel reads it.
    pub(crate) fn row_bytes(&self) -> usize {
        let groups = self.form.groups() * self.form.scale.size();
        self.form.row_bytes() + groups * if self.offsets.is_empty() { 1 } else { 2 }
    }

    /// Whether its inputs are rounded.
    pub(crate) fn is_int8(&self) -> bool {
        !self.sums.is_empty()
    }

    /// The sums of rows from `row` on.
    pub(crate) fn sums(&self, row: usize) -> *const i32 {
        self.sums.as_ptr().wrapping_add(row)
    }

    /// Rows `row .. row + n`, as kernels take them.
    pub(crate) fn rows(&self, row: usize, n: usize) -> CodedRows {
        debug_assert!(row + n <= self.num_rows);
        let offsets = if self.offsets.is_empty() { std::ptr::null() } else { self.offsets.as_ptr() };
        let (codes, scales) = (self.codes.as_ptr(), self.scales.as_ptr());
        CodedRows { form: self.form, codes, scales, offsets, n: self.num_rows }.from(row, n)
    }
}
