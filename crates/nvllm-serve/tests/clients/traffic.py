"""The requests that routers.py sends while it ends workers."""

import json
import threading
import time
import urllib.request
from collections import Counter


def chat(content, **fields):
    return {"model": "nvllm-tiny", "messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def begins_alone(number):
    """A text that shares no beginning with those of other numbers: cache_aware spreads them."""
    return f"{number * 7919 % 10007} " * 5


def post(base, body):
    request = urllib.request.Request(f"{base}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=120)


def long_answer(number, num_tokens, **fields):
    return chat(begins_alone(number), max_tokens=num_tokens, ignore_eos=True, **fields)


def long_stream(base, number, num_tokens, said):
    """One long stream, read as it comes: its text, or in a list what is wrong with it."""
    body = long_answer(number, num_tokens, stream=True, stream_options={"include_usage": True})
    finished, tokens, text, lines = None, None, "", []
    try:
        with post(base, body) as answer:
            lines.extend(line.decode().strip() for line in answer)
        lines = [line for line in lines if line]
        for line in lines:
            chunk = json.loads(line[6:]) if line.startswith("data: {") else {"choices": []}
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                finished = choice["finish_reason"] or finished
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        right = (finished, tokens, lines[-1]) == ("length", num_tokens, "data: [DONE]")
        said[number] = text if right else [f"{finished} after {tokens} tokens, the end is {lines[-1][:200]}"]
    except Exception as error:  # Whatever it is, it is what the client sees.
        said[number] = [f"{len(lines)} lines, then {error!r}"]


def whole_answer(url, number, num_tokens):
    with post(url, long_answer(number, num_tokens)) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


class ShortRequests(threading.Thread):
    """Short requests one after the other, whole and streamed in turn, by OpenAI's SDK."""

    def __init__(self, base):
        import openai
        super().__init__(daemon=True)
        self.client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=60)
        self.good, self.errors, self.ends, self.slowest = 0, Counter(), threading.Event(), 0.0

    def run(self):
        number = 0
        while not self.ends.is_set():
            number, begun = number + 1, time.monotonic()
            asked = chat(begins_alone(number), max_tokens=4)
            try:
                if number % 2:
                    assert self.client.chat.completions.create(**asked).choices[0].finish_reason
                else:
                    chunks = list(self.client.chat.completions.create(**asked, stream=True))
                    assert chunks[-1].choices[0].finish_reason
                self.good += 1
            except Exception as error:
                self.errors[f"{type(error).__name__}: {error}"[:300]] += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(0.02)
