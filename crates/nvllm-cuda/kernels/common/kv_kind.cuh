// What fast kernels read and write keys and values as: 16-bit elements, or codes of the KV cache's
// formats (nvllm-core's kv_format.rs).
#pragma once

enum KvKind { KV_ELEMS, KV_FP8, KV_INT8 };
