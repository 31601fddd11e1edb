//! Any ids in any pieces: the pieces joined are the whole text.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use nvllm_engine::text::{Detokenizer, TextStart, Tokenizer};

fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load = || {
        let bytes = include_bytes!("../../models/nvllm-tiny/tokenizer.json");
        Arc::new(Tokenizer::from_bytes(bytes, Path::new("tokenizer.json")).expect("the demo model's tokenizer"))
    };
    Arc::clone(TOKENIZER.get_or_init(load))
}

fuzz_target!(|data: (bool, Vec<u16>)| {
    let (skip, ids) = data;
    let ids: Vec<u32> = ids.into_iter().map(u32::from).collect();
    let tokenizer = tokenizer();
    let mut stream = Detokenizer::new(Arc::clone(&tokenizer), skip, TextStart::Beginning);
    let mut text = String::new();
    ids.iter().for_each(|&id| stream.push(id, &mut text));
    stream.finish(&mut text);
    assert_eq!(text, tokenizer.decode(&ids, skip));
});
