"""Chat templates in the manner of the model families, in our own words: for each the constructs that it is known for, on many conversations."""

CHATML = """{%- if messages[0]['role'] == 'system' %}
    {%- set lead = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set lead = 'Be brief.' %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start|>system\\n' + lead + '<|stop|>\\n' }}
{%- for m in rest %}
    {%- if (m.role == 'user') or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) %}
        {{- '<|start|>' + m.role + '\\n' + (m.content or '') + '<|stop|>' + '\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|start|>' + m.role }}
        {%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|stop|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.index0 == 0 or rest[loop.index0 - 1].role != 'tool' %}{{- '<|start|>user' }}{%- endif %}
        {{- '\\n<answer>\\n' }}{{- m.content }}{{- '\\n</answer>' }}
        {%- if loop.last or rest[loop.index0 + 1].role != 'tool' %}{{- '<|stop|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{%- endif %}
"""

THINKING = """{%- set ns = namespace(looking=true, at=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and m.role == 'user' and m.content is string and not (m.content.startswith('<answer>') and m.content.endswith('</answer>')) %}
        {%- set ns.looking = false %}
        {%- set ns.at = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.at and (loop.last or (not loop.last and thought)) %}
            {{- m.role + ':<think>' + thought.strip('\\n') + '</think>' + content.lstrip('\\n') }}
        {%- else %}
            {{- m.role + ':' + content }}
        {%- endif %}
    {%- else %}
        {{- m.role + ':' + content }}
    {%- endif %}
    {{- ';\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'assistant:' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}
{%- endif %}
"""

XML_TOOLS = """{% macro extras(fields, known) %}
    {%- if fields is mapping %}
        {%- for key in fields if key not in known %}
            {%- if fields[key] is mapping or (fields[key] is sequence and fields[key] is not string) %}
                {{- '\\n<' ~ key ~ '>' ~ (fields[key] | tojson | safe) ~ '</' ~ key ~ '>' }}
            {%- else %}
                {{- '\\n<' ~ key ~ '>' ~ (fields[key] | string) ~ '</' ~ key ~ '>' }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{% endmacro %}
{%- if messages[0]['role'] == 'system' %}
    {%- set lead = messages[0]['content'] %}{%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = [] %}{%- endif %}
{%- if lead is defined %}{{- 'S:' + lead }}{%- elif tools is iterable and tools | length > 0 %}{{- 'S:tools below' }}{%- endif %}
{%- if tools is iterable and tools | length > 0 %}
    {%- for tool in tools %}
        {%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
        {{- '\\n<fn>' ~ tool.name ~ '</fn>' }}
        {%- if tool.description is defined %}{{- '\\n<about>' ~ (tool.description | trim) ~ '</about>' }}{%- endif %}
        {%- if tool.parameters is defined and tool.parameters is mapping and tool.parameters.properties is defined and tool.parameters.properties is mapping %}
            {%- for name, spec in tool.parameters.properties|items %}
                {{- '\\n<param>' ~ name }}
                {%- if spec.type is defined %}{{- ' ' ~ (spec.type | string) }}{%- endif %}
                {{- extras(spec, ['name', 'type', 'description']) }}
                {{- '\\n</param>' }}
            {%- endfor %}
        {%- endif %}
        {{- extras(tool.parameters, ['type', 'properties']) }}
    {%- endfor %}
{%- endif %}
{%- for m in turns %}
    {%- if m.role == 'assistant' and m.tool_calls is defined and m.tool_calls is iterable and m.tool_calls | length > 0 %}
        {{- '\\nA:' }}
        {%- if m.content is defined and m.content is string and m.content | trim | length > 0 %}{{- m.content | trim ~ '\\n' }}{%- endif %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '<call ' ~ call.name ~ '>' }}
            {%- for name, value in call.arguments|items %}
                {%- set value = value | tojson | safe if value is mapping or (value is sequence and value is not string) else value | string %}
                {{- '<' ~ name ~ '>' ~ value ~ '</' ~ name ~ '>' }}
            {%- endfor %}
            {{- '</call>' }}
        {%- endfor %}
    {%- elif m.role == 'tool' %}
        {%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '\\nU:' }}{%- endif %}
        {{- '<r>' ~ m.content ~ '</r>' }}
        {%- if not loop.last and loop.nextitem.role != 'tool' %}{{- '<end>' }}{%- elif loop.last %}{{- '<end>' }}{%- endif %}
    {%- else %}
        {{- '\\n' ~ m.role ~ ':' ~ m.content }}
    {%- endif %}
{%- endfor %}
"""

HEADERS = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_first is defined %}{%- set tools_first = true %}{%- endif %}
{%- if not date is defined %}
    {%- if strftime_now is defined %}{%- set date = strftime_now("%d %b %Y") %}{%- else %}{%- set date = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set lead = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}
    {%- set lead = "" %}
{%- endif %}
{{- "<|head|>system<|/head|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Today: " + date + "\\n\\n" }}
{%- if tools is not none and not tools_first %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- lead }}{{- "<|end|>" }}
{%- if tools_first and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|head|>user<|/head|>\\n\\n' -}}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first + "<|end|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n'+ message['content'] | trim + '<|end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("Only one call at once!") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}{{- "<|end|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|head|>ipython<|/head|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}
"""

INSTRUCT = """{%- if messages[0]["role"] == "system" %}
    {%- set lead = messages[0]["content"] %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- for message in turns | rejectattr("role", "equalto", "tool") | rejectattr("role", "equalto", "tool_results") | selectattr("tool_calls", "undefined") %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == asked[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and lead is defined %}{{- "[I] " + lead + "\\n\\n" + message["content"] + "[/I]" }}
        {%- else %}{{- "[I] " + message["content"] + "[/I]" }}{%- endif %}
    {%- elif message["role"] == "tool_calls" or message.tool_calls is defined %}
        {{- "[CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function|tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id|length != 9 %}{{- raise_exception("Call ids should be alphanumeric strings with length 9!") }}{%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[RESULTS] {"content": ' + content|string + '}[/RESULTS]' }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}{%- endif %}
{%- endfor %}
"""

# JSON schemas as types of a programming language, by a macro that calls itself.
TYPES = """{%- macro kind(spec) -%}
    {%- set names = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
    {%- if spec.type is string and spec.type in names %}{{- names[spec.type] }}
    {%- elif spec.type == "array" %}{{- "list[" + kind(spec["items"]) + "]" }}
    {%- elif spec.type == "object" %}
        {%- if "additionalProperties" in spec %}{{- "dict[str, " + kind(spec.additionalProperties) + "]" }}{%- else %}{{- "dict" }}{%- endif %}
    {%- elif spec.type is iterable and spec.type is not string %}
        {{- "Union[" }}{%- for t in spec.type %}{{- kind({"type": t}) }}{%- if not loop.last %}{{- "," }}{%- endif %}{%- endfor %}{{- "]" }}
    {%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{%- for tool in tools or [] %}
    {{- tool.function.name + "(" }}
    {%- for name, spec in tool.function.parameters.properties.items() %}
        {{- name + ": " + kind(spec) }}{%- if name not in (tool.function.parameters.required or []) %}{{- " = None" }}{%- endif %}
        {%- if not loop.last %}{{- ", " }}{%- endif %}
    {%- endfor %}
    {{- ") # " ~ tool.function.description }}
    {%- if tool.function.parameters.properties.q is defined and tool.function.parameters.properties.q.enum %}{{- " " ~ tool.function.parameters.properties.q.enum|join("|") }}{%- endif %}
    {{- "\\n" }}
{%- endfor %}
{%- for m in messages -%}
    {%- if m.role == "tool" %}{{- "R" }}{%- endif %}
    {{- m.role[0]|upper ~ ":" ~ m.content|default("", true) ~ "\\n" }}
    {%- for call in m.tool_calls or [] %}{{- call.function.arguments|dictsort|map("join", "=")|join("&") }}{%- endfor %}
{%- endfor %}
"""

PARTS = """{%- macro show(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for part in content -%}
            {%- if part is mapping and part.type == 'text' -%}{{ part.text }}
            {%- elif part is mapping and (part.type == 'image' or 'image' in part or 'image_url' in part) -%}<img>
            {%- elif part is string -%}{{ part }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ content }}
    {%- endif -%}
{%- endmacro -%}
[mask]<sop>
{%- if tools -%}
<|system|>
Tools:
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
done
{%- endif -%}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{% set ns.last = loop.index0 -%}{%- endif %}{%- endfor %}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{{ show(m.content) }}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not show(m.content).endswith("/nothink")) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set content = show(m.content) %}
{%- if loop.index0 > ns.last and m.reasoning_content -%}{{ '\\n<think>' + m.reasoning_content.strip() + '</think>' }}{%- else -%}{{ '\\n<think></think>' }}{%- endif -%}
{%- if content.strip() -%}{{ '\\n' + content.strip() }}{%- endif -%}
{% if m.tool_calls %}
{% for tc in m.tool_calls %}
{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}
{{ '\\n<call>' + tc.name }}
{% set _args = tc.arguments %}
{% for k, v in _args.items() %}
<k>{{ k }}</k>
<v>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</v>
{% endfor %}
</call>{% endfor %}
{% endif %}
{%- elif m.role == 'tool' -%}
{%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|observation|>' }}{%- endif %}
{{- '\\n<r>\\n' ~ m.content ~ '\\n</r>' }}
{%- elif m.role == 'system' -%}<|system|>
{{ show(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}{%- endif -%}
"""

SEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, lead='', is_first_sp=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.lead = ns.lead + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.lead = ns.lead + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.lead }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|U|>' + message['content']}}{%- endif %}
{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}
{%- for tool in message['tool_calls'] %}
{%- if not ns.is_first %}{%- if message['content'] is none %}{{'<|A|><|calls|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments']|tojson + '\\n```'}}{%- else %}{{'<|A|>' + message['content'] + '<|calls|>' + tool['function']['name']}}{%- endif %}{%- set ns.is_first = true -%}
{%- else %}{{'\\n<|call|>' + tool['function']['name']}}{%- endif %}
{%- endfor %}{{'<|/calls|>'}}{%- endif %}
{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}{{'<|/outs|>' + message['content'] + eos_token}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|A|>' + content + eos_token}}{%- endif %}{%- endif %}
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<|outs|><|out|>' + message['content'] + '<|/out|>'}}{%- set ns.is_output_first = false %}{%- else %}{{'<|out|>' + message['content'] + '<|/out|>'}}{%- endif %}{%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{'<|/outs|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|A|><think>\\n'}}{% endif %}"""

TURNS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set prefix = messages[0]['content'] + '\\n\\n' -%}{%- else -%}{%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}{%- set prefix = "" -%}{%- set turns = messages -%}{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<turn>' + role + '\\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<turn>model\\n'}}{%- endif -%}
"""

LINE = ("{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}"
        "{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\\n'}}{% generation %}{{ message['content'] }}{{ '<|end|>\\n' }}{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}")

ROLES = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "Knowledge cutoff: April 2024.\\nToday: " + strftime_now('%B %d, %Y') + ".\\nYou are G." %}
    {%- if tools and documents %}{%- set system_message = system_message + " Use both." %}{%- elif tools %}{%- set system_message = system_message + " Use tools." %}{%- elif documents %}{%- set system_message = system_message + " Use documents." %}{%- endif %}
    {%- if 'citations' in controls and documents %}{%- set system_message = system_message + ' Cite.' %}{%- endif %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|r|>system<|/r|>' + system_message + '<|e|>\\n' }}
{%- if tools %}{{- '<|r|>tools<|/r|>' }}{{- tools | tojson(indent=4) }}{{- '<|e|>\\n' }}{%- endif %}
{%- if documents %}
    {{- '<|r|>documents<|/r|>' }}
    {%- for document in documents %}{{- 'Document ' + loop.index0 | string + '\\n' }}{{- document['text'] }}{%- if not loop.last %}{{- '\\n\\n'}}{%- endif%}{%- endfor %}
    {{- '<|e|>\\n' }}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|r|>' + message['role'] + '<|/r|>' ~ message['content'] ~ '<|e|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|r|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson()}}{%- endif %}{{- '<|/r|>' }}
    {%- endif %}
{%- endfor %}"""

CHANNELS = """{%- macro field(name, value) -%}{%- set text -%}{{ name }}={{ value }}{%- endset -%}{{ text | trim }}{%- endmacro -%}
{%- macro turn(role) -%}<{{ role }}{% if kwargs %} {% for k, v in kwargs.items() %}{{ field(k, v) }}{{ " " if not loop.last }}{% endfor %}{% endif %}>{{ caller() | indent(2, first=true) }}</{{ role }}>
{% endmacro -%}
{%- set styles = {"user": {"to": "all"}, "assistant": {"to": "user", "channel": "final"}} -%}
{%- for message in messages -%}
    {%- call turn(message.role, **styles.get(message.role, {})) -%}
        {%- if message.content is mapping -%}{{ message.content | tojson(sort_keys=true, separators=(",", ":")) }}
        {%- elif message.content is none or message.content is undefined -%}(none)
        {%- else -%}{{ message.content }}{%- endif -%}
        {%- if message.tool_calls -%}
            {%- for call in message.tool_calls|map(attribute="function") -%}
                {{ "\\n%s(%s)" | format(call.name, call.arguments.keys() | sort | join(", ")) }}
            {%- endfor -%}
        {%- endif -%}
    {%- endcall -%}
{%- endfor -%}
{%- set seen = messages | map(attribute="role") | unique | list -%}
{{ seen | join("+") }}|{{ messages | groupby("role") | map("first") | join(",") }}|{{ messages | map(attribute="content", default="?") | map("string") | map("length") | sum }}
"""

TEMPLATES = {
    "chatml": CHATML, "thinking": THINKING, "xml tools": XML_TOOLS, "headers": HEADERS, "instruct": INSTRUCT, "types": TYPES, "parts": PARTS,
    "seek": SEEK, "turns": TURNS, "line": LINE, "roles": ROLES, "channels": CHANNELS,
}

TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": " Tells the weather <now> & \"later\".\n", "parameters": {"type": "object", "properties": {
        "q": {"type": "string", "description": "the city", "enum": ["Köln", "Rio"]}, "days": {"type": ["integer", "null"], "default": 1.0, "minimum": 1e-07},
        "list": {"type": "array", "items": {"type": "number"}}, "map": {"type": "object", "additionalProperties": {"type": "boolean"}}}, "required": ["q"]}}},
    {"type": "function", "function": {"name": "items", "description": "Lists things", "parameters": {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "string"}}}}}},
]


def call(name, arguments, id="abcdefgh1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER, SYSTEM = {"role": "user", "content": " How warm is it?\n"}, {"role": "system", "content": "You know weather."}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n Warm <b>&</b>\n"}
CALL = {"role": "assistant", "content": "Let me look.", "tool_calls": [call("weather", {"q": "Köln", "days": 2, "list": [1.0, 1e16]})]}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("weather", {"q": "Rio"}), call("items", {"items": ["a", "'b'"], "map": {"x": True}}, "abcdefgh2")]}
RESULT, RESULT2 = {"role": "tool", "content": "{\"t\": 21.5}", "name": "weather"}, {"role": "tool", "content": "[]", "name": "items"}
MULTI = {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image", "image_url": "x"}, {"type": "text", "text": "this?"}]}

CONVERSATIONS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "two turns": [SYSTEM, USER, ANSWER, USER],
    "ends with an answer": [USER, ANSWER],
    "call": [SYSTEM, USER, CALL, RESULT],
    "call and answer": [USER, CALL, RESULT, ANSWER, USER],
    "two calls": [SYSTEM, USER, CALLS, RESULT, RESULT2],
    "calls in the middle": [USER, CALLS, RESULT, RESULT2, ANSWER, USER, CALL, RESULT],
    "reasoning": [USER, {"role": "assistant", "content": "Warm.", "reasoning_content": "\nsummer\n"}, USER, {"role": "assistant", "content": "Hot.", "reasoning_content": "august"}],
    "parts": [MULTI],
    "none": [USER, {"role": "assistant", "content": None}, USER],
    "wrong order": [USER, USER, ANSWER],
    "mapping": [USER, {"role": "tool", "content": {"b": [1, None], "a": "é"}}],
    "empty": [],
    "unknown role": [{"role": "critic", "content": "bad"}],
}


def contexts():
    out = {}
    for name, messages in CONVERSATIONS.items():
        for tools in [None, TOOLS] if "call" in name or name in ("one", "two turns") else [None]:
            context = {"messages": messages, "tools": tools, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": messages[-1:] != [ANSWER]}
            if name == "two turns":
                context["enable_thinking"] = False
            if name == "system":
                context.update(controls={"citations": True}, documents=[{"title": "T", "text": "first"}, {"title": "U", "text": "second"}])
            out[name + (", tools" if tools else "")] = context
    return out
