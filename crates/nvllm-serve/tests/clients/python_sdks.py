#!/usr/bin/env python3
"""Runs the Python SDKs of OpenAI and Anthropic against a server, and checks what they return.

    python -m venv venv && venv/bin/pip install openai anthropic
    nvllm serve --port 8000
    venv/bin/python crates/nvllm-serve/tests/clients/python_sdks.py http://127.0.0.1:8000

Any model will do: what is checked is shapes, and that a stream and a whole answer agree. Prints a
line for each case, and ends with an error at the first that fails.
"""

import json
import sys
import typing

import anthropic
import openai
import pydantic

BASE = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8000"
OPENAI = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=120)
ANTHROPIC = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0, timeout=120)
MODEL = OPENAI.models.list().data[0].id

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the sea?"}]
QUIET = {"enable_thinking": False}
# Long enough for a model that ends; what does not end is told by its finish_reason.
CHAT = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "seed": 1, "max_tokens": 24, "extra_body": QUIET}
TEXT = {"model": MODEL, "prompt": "The sea is", "temperature": 0, "seed": 1, "max_tokens": 12}
RESPONSE = {"model": MODEL, "input": "What is the sea?", "instructions": "Be brief.", "temperature": 0,
            "extra_body": {"seed": 1, **QUIET}}
MESSAGE = {"model": MODEL, "system": "Be brief.", "messages": MESSAGES[1:], "max_tokens": 24,
           "extra_body": {"temperature": 0}}

CASES = []


def case(function):
    CASES.append(function)
    return function


def equal(left, right):
    assert left == right, f"{left!r} is not {right!r}"


def refused(error_type, call, status, names):
    try:
        call()
    except error_type as error:
        equal(error.status_code, status)
        assert names in str(error), f"{names!r} is not in {error}"
    else:
        raise AssertionError("was not refused")


@case
def models():
    model = OPENAI.models.retrieve(MODEL)
    equal((model.id, model.object), (MODEL, "model"))
    assert model.created > 0 and model.owned_by


@case
def chat_whole():
    answer = OPENAI.chat.completions.create(**CHAT)
    choice = answer.choices[0]
    equal((answer.object, choice.index, choice.message.role), ("chat.completion", 0, "assistant"))
    assert choice.finish_reason in ("stop", "length")
    assert isinstance(choice.message.content, str) and choice.message.tool_calls is None
    usage = answer.usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    assert 0 < usage.completion_tokens <= CHAT["max_tokens"] and usage.prompt_tokens_details.cached_tokens >= 0


@case
def chat_stream_is_the_whole_in_parts():
    whole = OPENAI.chat.completions.create(**CHAT)
    chunks = list(OPENAI.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    equal({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
    equal(len({chunk.id for chunk in chunks}), 1)
    *parts, last = chunks
    equal(last.choices, [])
    equal(last.usage.completion_tokens, whole.usage.completion_tokens)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    equal(text, whole.choices[0].message.content)
    equal([part.choices[0].delta.role for part in parts if part.choices[0].delta.role], ["assistant"])
    equal(parts[-1].choices[0].finish_reason, whole.choices[0].finish_reason)


@case
def chat_stream_helper_accumulates():
    whole = OPENAI.chat.completions.create(**CHAT)
    with OPENAI.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        # get_final_completion() raises where an answer is cut, as this one may be.
        snapshot = stream.current_completion_snapshot
    equal("".join(deltas), whole.choices[0].message.content)
    message = snapshot.choices[0].message
    equal((message.role, message.content), ("assistant", whole.choices[0].message.content))
    equal(snapshot.usage.completion_tokens, whole.usage.completion_tokens)
    equal(snapshot.choices[0].finish_reason, whole.choices[0].finish_reason)


@case
def chat_stream_helper_ends_with_stop():
    whole = OPENAI.chat.completions.create(**CHAT)
    text = whole.choices[0].message.content
    stop = text[len(text) // 2:][:4]
    assert stop, "the model says too little"
    asked = {**CHAT, "stop": [stop]}
    with OPENAI.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    equal(final.choices[0].finish_reason, "stop")
    equal(final.choices[0].message.content, text[:text.index(stop)])


@case
def chat_logprobs():
    # Log-probabilities are the model's own: a penalty may have another token drawn than the likeliest.
    asked = {**CHAT, "logprobs": True, "top_logprobs": 3, "extra_body": {"repetition_penalty": 1, **QUIET}}
    whole = OPENAI.chat.completions.create(**asked)
    content = whole.choices[0].logprobs.content
    assert whole.usage.completion_tokens - len(content) in (0, 1), "all but the end's token, which has no text"
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3 and isinstance(token.bytes, list)
        equal(token.top_logprobs[0].logprob, token.logprob)
    said = b"".join(bytes(token.bytes) for token in content).decode(errors="replace")
    assert whole.choices[0].message.content in said
    chunks = OPENAI.chat.completions.create(**asked, stream=True)
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs
                for token in chunk.choices[0].logprobs.content]
    equal(streamed, content)


@case
def chat_n():
    asked = {**CHAT, "temperature": 1, "n": 2}
    whole = OPENAI.chat.completions.create(**asked)
    equal([choice.index for choice in whole.choices], [0, 1])
    texts = ["", ""]
    for chunk in OPENAI.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    equal(texts, [choice.message.content for choice in whole.choices])


@case
def chat_refusals():
    create = OPENAI.chat.completions.create
    refused(openai.BadRequestError, lambda: create(**{**CHAT, "temperature": -1}), 400, "temperature")
    refused(openai.BadRequestError, lambda: create(**{**CHAT, "messages": []}), 400, "messages")
    refused(openai.NotFoundError, lambda: create(**{**CHAT, "model": "none"}), 404, "none")


class Sky(pydantic.BaseModel):
    color: typing.Literal["red", "green", "blue"]
    is_clear: bool


@case
def structured_answers_are_parsed():
    whole = OPENAI.chat.completions.parse(**{**CHAT, "max_tokens": 200}, response_format=Sky)
    assert isinstance(whole.choices[0].message.parsed, Sky)
    with OPENAI.chat.completions.stream(**{**CHAT, "max_tokens": 200}, response_format=Sky) as stream:
        equal(stream.get_final_completion().choices[0].message.parsed, whole.choices[0].message.parsed)
    answer = OPENAI.responses.parse(**RESPONSE, max_output_tokens=200, text_format=Sky)
    assert isinstance(answer.output_parsed, Sky)
    outputs = {"structured_outputs": {"choice": ["yes", "no"]}}
    text = OPENAI.completions.create(**TEXT, extra_body=outputs).choices[0].text
    assert text in ("yes", "no"), text
    bad = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "sting"}}}
    create = OPENAI.chat.completions.create
    refused(openai.BadRequestError, lambda: create(**CHAT, response_format=bad), 400, "sting")


@case
def completions():
    whole = OPENAI.completions.create(**TEXT)
    equal((whole.object, whole.choices[0].index), ("text_completion", 0))
    assert whole.choices[0].finish_reason in ("stop", "length")
    chunks = list(OPENAI.completions.create(**TEXT, stream=True, stream_options={"include_usage": True}))
    equal("".join(chunk.choices[0].text for chunk in chunks[:-1]), whole.choices[0].text)
    equal(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
    several = OPENAI.completions.create(**{**TEXT, "prompt": ["The sea is", "The sun is"]})
    equal([choice.index for choice in several.choices], [0, 1])
    equal(several.choices[0].text, whole.choices[0].text)


@case
def completions_echo_and_logprobs():
    plain = OPENAI.completions.create(**TEXT)
    echoed = OPENAI.completions.create(**TEXT, echo=True, logprobs=2)
    equal(echoed.choices[0].text, TEXT["prompt"] + plain.choices[0].text)
    logprobs = echoed.choices[0].logprobs
    lengths = {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.top_logprobs),
               len(logprobs.text_offset)}
    equal(len(lengths), 1)
    equal((logprobs.token_logprobs[0], logprobs.top_logprobs[0]), (None, None))
    assert all(logprob <= 0 for logprob in logprobs.token_logprobs[1:])
    for token, logprob, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
        equal(top[token], logprob)
    equal(logprobs.text_offset[0], 0)


def tool(name, description, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description, "parameters": schema}


# What the demo model calls, as its golden text has it.
FUNCTIONS = [tool("get_weather", "Get the current weather for a city", city={"type": "string", "description": "City name"}),
             tool("add", "Add two numbers", a={"type": "integer"}, b={"type": "integer"})]
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
RESULT = "mild, 18 degrees"
GREEDY = {**QUIET, "repetition_penalty": 1}


@case
def chat_calls_a_tool():
    tools = [{"type": "function", "function": function} for function in FUNCTIONS]
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 64, "tools": tools, "extra_body": GREEDY}
    whole = OPENAI.chat.completions.create(**asked, messages=[WEATHER])
    message = whole.choices[0].message
    equal((whole.choices[0].finish_reason, message.content), ("tool_calls", None))
    [call] = message.tool_calls
    equal((call.type, call.function.name, json.loads(call.function.arguments)),
          ("function", "get_weather", {"city": "Paris"}))
    # Those of strict tools follow the schema, and the helper parses them.
    strict = [{"type": "function", "function": {**function, "strict": True}} for function in FUNCTIONS]
    with OPENAI.chat.completions.stream(**{**asked, "tools": strict}, messages=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds, kinds
    streamed = final.choices[0].message
    equal(final.choices[0].finish_reason, "tool_calls")
    equal(streamed.tool_calls[0].function.arguments, call.function.arguments)
    equal(streamed.tool_calls[0].function.parsed_arguments, {"city": "Paris"})
    # The client answers, and the model goes on.
    for said in (message, streamed):
        turns = [WEATHER, said, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": RESULT}]
        answer = OPENAI.chat.completions.create(**asked, messages=turns)
        equal((answer.choices[0].finish_reason, answer.choices[0].message.tool_calls), ("stop", None))
        assert answer.choices[0].message.content
    print(f"  chat: {call.function.name}({call.function.arguments}) = {RESULT!r}: {answer.choices[0].message.content!r}")
    create = OPENAI.chat.completions.create
    lost = [WEATHER, {"role": "tool", "tool_call_id": "call_none", "content": RESULT}]
    refused(openai.BadRequestError, lambda: create(**asked, messages=lost), 400, "messages[1].tool_call_id")
    named = {"type": "function", "function": {"name": "none"}}
    refused(openai.BadRequestError, lambda: create(**asked, messages=[WEATHER], tool_choice=named), 400, "tool_choice")


@case
def chat_must_call_a_tool():
    tools = [{"type": "function", "function": function} for function in FUNCTIONS]
    asked = {"model": MODEL, "temperature": 0, "max_tokens": 96, "tools": tools, "extra_body": GREEDY}
    hello = [{"role": "user", "content": "Hello"}]
    for choice, names in (("required", {"get_weather", "add"}),
                          ({"type": "function", "function": {"name": "add"}}, {"add"})):
        message = OPENAI.chat.completions.create(**asked, messages=hello, tool_choice=choice).choices[0].message
        arguments = json.loads(message.tool_calls[0].function.arguments)
        assert message.tool_calls[0].function.name in names, message
        assert set(arguments) in ({"city"}, {"a", "b"}), message


@case
def chat_thinks():
    asked = {**CHAT, "messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 100,
             "extra_body": {"enable_thinking": True, "repetition_penalty": 1}}
    whole = OPENAI.chat.completions.create(**asked)
    message = whole.choices[0].message
    assert message.reasoning and "<think>" not in message.content + message.reasoning
    assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens
    with OPENAI.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    equal((final.choices[0].message.reasoning, final.choices[0].message.content), (message.reasoning, message.content))


@case
def responses_call_a_tool():
    tools = [{"type": "function", "strict": False, **function} for function in FUNCTIONS]
    asked = {"model": MODEL, "temperature": 0, "max_output_tokens": 64, "tools": tools, "extra_body": GREEDY}
    whole = OPENAI.responses.create(**asked, input=[WEATHER])
    [call] = whole.output
    equal((whole.status, call.type, call.name, json.loads(call.arguments)),
          ("completed", "function_call", "get_weather", {"city": "Paris"}))
    with OPENAI.responses.stream(**asked, input=[WEATHER]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    equal(("".join(deltas), final.output[0].arguments), (call.arguments, call.arguments))
    for said in (whole, final):
        items = [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in said.output]
        turns = [WEATHER, *items,
                 {"type": "function_call_output", "call_id": said.output[0].call_id, "output": RESULT}]
        answer = OPENAI.responses.create(**asked, input=turns)
        equal((answer.status, answer.output[-1].type), ("completed", "message"))
        assert answer.output_text
    print(f"  responses: {call.name}({call.arguments}) = {RESULT!r}: {answer.output_text!r}")


@case
def responses_think():
    asked = {**RESPONSE, "input": "What is the capital of France?", "instructions": None, "max_output_tokens": 100,
             "extra_body": {"repetition_penalty": 1, "enable_thinking": True}}
    whole = OPENAI.responses.create(**asked)
    equal([item.type for item in whole.output], ["reasoning", "message"])
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    with OPENAI.responses.stream(**asked) as stream:
        thoughts = [event.delta for event in stream if event.type == "response.reasoning_text.delta"]
        final = stream.get_final_response()
    equal("".join(thoughts), whole.output[0].content[0].text)
    equal((final.output[0].content, final.output_text), (whole.output[0].content, whole.output_text))
    turn = [*[item.model_dump() for item in whole.output], {"role": "user", "content": "And of Italy?"}]
    assert OPENAI.responses.create(**{**asked, "input": turn}).output_text


@case
def responses_whole():
    answer = OPENAI.responses.create(**RESPONSE, max_output_tokens=24, metadata={"key": "value"})
    assert answer.status in ("completed", "incomplete")
    if answer.status == "incomplete":
        equal(answer.incomplete_details.reason, "max_output_tokens")
    item = answer.output[0]
    equal((item.type, item.role, item.content[0].type), ("message", "assistant", "output_text"))
    equal(answer.output_text, item.content[0].text)
    equal((answer.instructions, answer.metadata, answer.tools), ("Be brief.", {"key": "value"}, []))
    equal((answer.temperature, answer.tool_choice, answer.error), (0, "auto", None))
    usage = answer.usage
    equal(usage.total_tokens, usage.input_tokens + usage.output_tokens)
    assert usage.input_tokens_details.cached_tokens >= 0
    equal(usage.output_tokens_details.reasoning_tokens, 0)


@case
def responses_say_what_chat_says():
    chat = OPENAI.chat.completions.create(**CHAT)
    items = [{"role": "developer", "content": "Be brief."},
             {"type": "message", "role": "user",
              "content": [{"type": "input_text", "text": "What is the sea?"}]}]
    answers = [OPENAI.responses.create(**RESPONSE, max_output_tokens=24)]
    asked = {**RESPONSE, "input": items, "instructions": None}
    answers.append(OPENAI.responses.create(**asked, max_output_tokens=24))
    for answer in answers:
        equal(answer.output_text, chat.choices[0].message.content)
        equal(answer.usage.input_tokens, chat.usage.prompt_tokens)
    # An answer's own items are an input again.
    turn = [*items, *[item.model_dump() for item in answer.output], {"role": "user", "content": "And then?"}]
    assert OPENAI.responses.create(**{**asked, "input": turn}, max_output_tokens=4).usage.output_tokens > 0


@case
def responses_stream():
    whole = OPENAI.responses.create(**RESPONSE, max_output_tokens=24)
    events = list(OPENAI.responses.create(**RESPONSE, max_output_tokens=24, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))))
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"),
          whole.output_text)
    last = events[-1]
    equal((last.type, last.response.output_text), (f"response.{whole.status}", whole.output_text))
    equal(last.response.id, events[0].response.id)
    equal(last.response.usage.output_tokens, whole.usage.output_tokens)


@case
def responses_stream_helper():
    whole = OPENAI.responses.create(**RESPONSE, max_output_tokens=24)
    stop = whole.output_text[len(whole.output_text) // 2:][:4]
    extra = {"seed": 1, "stop": [stop], **QUIET}
    asked = {**RESPONSE, "extra_body": extra, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    with OPENAI.responses.stream(**asked) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    equal(final.status, "completed")
    equal(final.output_text, whole.output_text[:whole.output_text.index(stop)])
    equal(snapshots[-1], final.output_text)
    assert all(len(token.top_logprobs) == 2 for token in final.output[0].content[0].logprobs)


@case
def responses_count_and_refusals():
    whole = OPENAI.responses.create(**RESPONSE, max_output_tokens=1)
    count = OPENAI.responses.input_tokens.count(
        model=MODEL, input=RESPONSE["input"], instructions=RESPONSE["instructions"], extra_body=QUIET)
    equal((count.object, count.input_tokens), ("response.input_tokens", whole.usage.input_tokens))
    create = OPENAI.responses.create
    refused(openai.BadRequestError, lambda: create(**RESPONSE, previous_response_id="resp_1"), 400, "previous")
    refused(openai.NotFoundError, lambda: OPENAI.responses.retrieve(whole.id), 404, "not stored")
    refused(openai.NotFoundError, lambda: OPENAI.responses.delete(whole.id), 404, "not stored")


@case
def messages_whole():
    chat = OPENAI.chat.completions.create(**CHAT)
    answer = ANTHROPIC.messages.create(**MESSAGE)
    equal((answer.type, answer.role, answer.model), ("message", "assistant", MODEL))
    equal([block.type for block in answer.content], ["text"])
    equal(answer.content[0].text, chat.choices[0].message.content)
    assert answer.stop_reason in ("end_turn", "max_tokens") and answer.stop_sequence is None
    usage = answer.usage
    equal(usage.input_tokens + usage.cache_read_input_tokens, chat.usage.prompt_tokens)
    equal(usage.output_tokens, chat.usage.completion_tokens)


@case
def messages_stream():
    whole = ANTHROPIC.messages.create(**MESSAGE)
    events = list(ANTHROPIC.messages.create(**MESSAGE, stream=True))
    kinds = [event.type for event in events if event.type != "content_block_delta"]
    equal(kinds, ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    equal(text, whole.content[0].text)


@case
def messages_stream_helper():
    whole = ANTHROPIC.messages.create(**MESSAGE)
    with ANTHROPIC.messages.stream(**MESSAGE) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    equal((text, final.content[0].text), (whole.content[0].text,) * 2)
    equal((final.stop_reason, final.role), (whole.stop_reason, "assistant"))
    usage, expected = final.usage, whole.usage
    equal(usage.output_tokens, expected.output_tokens)
    equal(usage.input_tokens + usage.cache_read_input_tokens,
          expected.input_tokens + expected.cache_read_input_tokens)


@case
def messages_as_coding_clients_send_them():
    cached = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    content = [{"type": "text", "text": "What is the sea?", "cache_control": {"type": "ephemeral"}}]
    answer = ANTHROPIC.beta.messages.create(
        **{**MESSAGE, "system": [cached], "messages": [{"role": "user", "content": content}]},
        betas=["context-management-2025-06-27"], metadata={"user_id": "someone"}, tools=[])
    equal(answer.content[0].text, ANTHROPIC.messages.create(**MESSAGE).content[0].text)


@case
def messages_stop_at_a_sequence():
    text = ANTHROPIC.messages.create(**MESSAGE).content[0].text
    stop = text[len(text) // 2:][:4]
    answer = ANTHROPIC.messages.create(**MESSAGE, stop_sequences=[stop])
    equal(answer.content[0].text, text[:text.index(stop)])
    equal((answer.stop_reason, answer.stop_sequence), ("stop_sequence", stop))
    with ANTHROPIC.messages.stream(**MESSAGE, stop_sequences=[stop]) as stream:
        final = stream.get_final_message()
    equal((final.stop_reason, final.stop_sequence), ("stop_sequence", stop))
    equal(final.content[0].text, answer.content[0].text)


@case
def messages_count_and_refusals():
    usage = ANTHROPIC.messages.create(**MESSAGE).usage
    count = ANTHROPIC.messages.count_tokens(model=MODEL, system="Be brief.", messages=MESSAGE["messages"])
    equal(count.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)
    create = ANTHROPIC.messages.create
    refused(anthropic.BadRequestError, lambda: create(**{**MESSAGE, "max_tokens": 0}), 400, "max_tokens")
    refused(anthropic.NotFoundError, lambda: create(**{**MESSAGE, "model": "none"}), 404, "not_found_error")


@case
def messages_call_a_tool():
    tools = [{"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}
             for function in FUNCTIONS]
    extra = {"temperature": 0, "repetition_penalty": 1}
    asked = {"model": MODEL, "max_tokens": 64, "tools": tools, "extra_body": extra}
    whole = ANTHROPIC.messages.create(**asked, messages=[WEATHER])
    [call] = whole.content
    equal((whole.stop_reason, call.type, call.name, call.input), ("tool_use", "tool_use", "get_weather", {"city": "Paris"}))
    with ANTHROPIC.messages.stream(**asked, messages=[WEATHER]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    equal((json.loads("".join(pieces)), final.content[0].input, final.stop_reason), (call.input, call.input, "tool_use"))
    for said in (whole, final):
        result = {"type": "tool_result", "tool_use_id": said.content[0].id, "content": RESULT}
        turns = [WEATHER, {"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
        answer = ANTHROPIC.messages.create(**asked, messages=turns)
        equal((answer.stop_reason, [block.type for block in answer.content]), ("end_turn", ["text"]))
        assert answer.content[0].text
    print(f"  messages: {call.name}({call.input}) = {RESULT!r}: {answer.content[0].text!r}")
    count = ANTHROPIC.messages.count_tokens(model=MODEL, messages=[WEATHER], tools=tools)
    equal(count.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens)
    forced = ANTHROPIC.messages.create(**asked, messages=[WEATHER], tool_choice={"type": "tool", "name": "add"})
    equal((forced.content[-1].name, set(forced.content[-1].input)), ("add", {"a", "b"}))


@case
def messages_think():
    asked = {**MESSAGE, "system": "", "messages": [{"role": "user", "content": "What is the capital of France?"}],
             "max_tokens": 200, "extra_body": {"temperature": 0, "repetition_penalty": 1}}
    quiet = ANTHROPIC.messages.create(**asked)
    equal([block.type for block in quiet.content], ["text"])
    thinking = {"type": "enabled", "budget_tokens": 100}
    whole = ANTHROPIC.messages.create(**asked, thinking=thinking)
    equal([block.type for block in whole.content], ["thinking", "text"])
    with ANTHROPIC.messages.stream(**asked, thinking=thinking) as stream:
        thoughts = "".join(event.thinking for event in stream if event.type == "thinking")
        final = stream.get_final_message()
    equal((thoughts, final.content[0].thinking), (whole.content[0].thinking,) * 2)
    assert final.content[0].signature
    equal(final.content[1].text, whole.content[1].text)
    turns = [*asked["messages"], {"role": "assistant", "content": final.content}, {"role": "user", "content": "And of Italy?"}]
    assert ANTHROPIC.messages.create(**{**asked, "messages": turns}).content[0].text


def main():
    print(f"openai {openai.__version__}, anthropic {anthropic.__version__}, model {MODEL}")
    for function in CASES:
        try:
            function()
        except Exception:
            print(f"FAILED {function.__name__}", flush=True)
            raise
        print(f"ok {function.__name__}", flush=True)


main()
