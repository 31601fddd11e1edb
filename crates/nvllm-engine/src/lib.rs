//! loader, tokenizer, the step loop
