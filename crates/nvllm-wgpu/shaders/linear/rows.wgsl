// Rows of x as they lie.
fn prepare_row(row: u32, lane: u32) {}

// Elements 4 i .. 4 i + 3 of a row.
fn row_values(row: u32, i: u32) -> vec4<f32> {
    return x[row * (p.k / 4u) + i];
}
