// bandwidth: reads all of `data` once, 16 bytes an invocation at a time, and keeps nothing of it.
// What it is compared with can hardly be, so that no read is left out.
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    var sum = vec4(0u);
    for (var i = id.x; i < arrayLength(&data); i += groups.x * 256u) {
        sum ^= data[i];
    }
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x6e766c6du) {
        out[0] = 1u;
    }
}
