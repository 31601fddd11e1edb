// Keys and values that are all in the cache, and queries: `query_at(i)` is element i of them; its
// text is generated.
fn read_octet(is_new: bool, is_value: u32, block: u32, row: u32, i: u32) -> Octet {
    return load_octet(block, row, i);
}

fn read_scale(is_new: bool, is_value: u32, block: u32, row: u32) -> f32 {
    return row_scale(block, row);
}

fn prepare_query(row: u32, q_head: u32, last: u32, table: u32, chunk: u32, lane: u32) {
    if (lane < D / 4u) {
        let q = (row * p.num_heads + q_head) * D + 4u * lane;
        query[lane] = vec4(query_at(q), query_at(q + 1u), query_at(q + 2u), query_at(q + 3u));
    }
}
