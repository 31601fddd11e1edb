//! Where templates are known to render differently than in Jinja2, by reason. An entry that no
//! longer differs, or differs in another way, fails the test as one that newly differs does.

/// How our rendering differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// An error, where Jinja2 renders.
    Refused,
    /// A text, where Jinja2 raises an error.
    Lenient,
    /// Another text.
    Different,
}

use Difference::{Different, Lenient, Refused};

/// How, why, and which templates.
pub(crate) const KNOWN_DIFFERENCES: &[(Difference, &str, &[&str])] = &[
    (
        Refused,
        "methods and attributes of numbers, functions and other values that minijinja lacks",
        &[
            "{{ dict.fromkeys(['a', 'b']), dict.fromkeys('ab', 0) }}",
            "{{ shadow|attr('name'), shadow|attr('items') is callable }}",
            "{{ i.bit_length(), f.is_integer(), (2.0).is_integer(), i.real, f.imag }}",
            "{{ s.format.__globals__ }}",
        ],
    ),
    (
        Refused,
        "syntax that minijinja lacks: unary `+`, an empty subscript, colons, tuples without brackets in `for` and `if`, `print`, `block`",
        &[
            "{{ -i, +i, -f, - -i, +t }}",
            "{{ l[] }}",
            "{% if l, %}x{% endif %}",
            "{% if t: %}x{% endif %}",
            "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for a in 1, 2, 3 %}{{ a }}{% endfor %}",
            "{% print 1, 'a' %}{% print s %}",
            "{% block x %}{{ s }}{% endblock %}{% block y scoped %}b{% endblock y %}",
        ],
    ),
    (
        Refused,
        "the operator `%` on strings (the filter `format` works)",
        &[
            "{{ '%s-%d' % ('a', 3) }}",
            "{{ '%s' % 'x', '%s' % [1], '%s %s' % ('a', none), '%%', '%d%%' % 5 }}",
            "{{ '%5.2f|%-5s|%05d|%+d|%x|%X|%o|%e|%g|%c' % (3.14159, 'ab', 42, 5, 255, 255, 8, 12345.678, 0.0001, 'z') }}",
            "{{ '%(a)s and %(b)05.1f' % {'a': 'x', 'b': 2.25} }}",
            "{{ '%r %s %5s %.2s %*d %-*d|' % ('q', 'é', 'é', 'abc', 4, 7, 4, 7) }}",
            "{{ '%d' % 3.9, '%d' % true, '%i' % -2, '%s' % (1,) }}",
            "{{ '%#x %#o % d %.3d' % (255, 8, 5, 7) }}",
            "{{ '%g %g %g %G' % (1e10, 123456789, 0.00001, 1e-10) }}",
            "{{ ('<' |e) + '<', '<' + ('<'|e), ('<'|safe) + '<', ('<'|safe) ~ '<', ('<%s>'|safe) % '<', ('a'|safe) * 2, ('<{}>'|safe).format('<&>'), ('<x>'|safe).upper(), ('&'|safe).join(['<', '>']) }}",
        ],
    ),
    (
        Refused,
        "arguments and details of minijinja's filters and unpacking",
        &[
            "{{ l.index(1), l.count(3), (1, 2, 1).count(1), l.index(2, 1) }}",
            "{{ l|sort, l|sort(reverse=true), words|sort, words|sort(case_sensitive=true), words|sort(true), people|sort(attribute='age')|map(attribute='name')|list, people|sort(attribute='age,name', reverse=true)|map(attribute='name')|list, 'hello'|sort, d|sort }}",
            "{{ l|batch(2)|list, l|batch(2, 'x')|list, l|batch(linecount=5, fill_with=0)|list, []|batch(2)|list, 'abcde'|batch(2)|list, l|batch(0)|list }}",
            "{{ people|groupby('age'), people|groupby('age')|map(attribute='grouper')|list, people|groupby('age')|map(attribute='list')|map('length')|list, words|groupby(0), people|groupby('nope', default='none')|length }}",
            "{{ d|dictsort, d|dictsort(true), d|dictsort(by='value'), d|dictsort(false, 'value', true), d|dictsort(reverse=true), {}|dictsort, d|dictsort(case_sensitive=false) }}",
            "{{ words|map('upper')|list, words|map('replace', 'p', 'P')|list, people|map(attribute='name')|list, people[:2]|map(attribute='tags.0')|list, people|map(attribute='tags', default=[])|list, people|map(attribute='nope', default='-')|join, [[1, 2]]|map(attribute=1)|list, l|map('string')|map('length')|sum, words|map('truncate', 3, leeway=0)|list, people|map(attribute='name')|map('lower')|join(', '), []|map('nope')|list, l|map('round', precision=1)|list, d|map('upper')|list }}",
            "{{ 0|map('upper')|list }}",
            "{% for a, b in ['xy', [1, 2], {'p': 1, 'q': 2}] %}{{ a }}{{ b }}{% endfor %}",
        ],
    ),
    (
        Refused,
        "the filter `pprint`, which breaks lines in another way",
        &[
            "{{ people[0]|pprint, l|pprint, 'x'|pprint, {'b': 1, 'a': [1, 2]}|pprint, ()|pprint, none|pprint, 5|pprint }}",
            "{{ {'a list': range(40)|list, 'long text': 'some words that go on and on ' * 5, 'b': {'x': words * 10}}|pprint }}",
            r"{{ range(60)|list|pprint, ('some words that go on and on ' * 5)|pprint, [('word ' * 20), 1]|pprint, {'k': 'first line\nsecond line ' * 4}|pprint, ('x' * 100)|pprint, (('w ' * 45), )|pprint }}",
        ],
    ),
    (
        Refused,
        "defaults of a macro that use another parameter, which minijinja looks up elsewhere",
        &["{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m('x', 'y') }}"],
    ),
    (
        Lenient,
        "values of different types, and undefined ones, have an order and can be looked for",
        &[
            "{{ x < 1 }}",
            "{{ x in 'abc' }}",
            "{{ [x, 1]|max }}",
            "{{ 1 < 'a' }}",
            "{{ none < 1 }}",
            "{{ [1] < (2,) }}",
            "{{ {} < {} }}",
            "{{ 1 in 'abc' }}",
            "{{ [1] in d }}",
            "{{ nested.x.y|sort(attribute='z', reverse=true)|length }}",
            "{{ mixed|sort }}",
            "{{ people|sort }}",
            "{{ [none, 1]|sort }}",
            "{{ mixed|max }}",
            "{{ {'a': 1, 2: 3}|dictsort }}",
            "{{ people|selectattr('tags', 'gt', 1)|list }}",
            "{{ 1 is gt 'a' }}",
        ],
    ),
    (
        Lenient,
        "undefined values and `none` as empty sequences, and other input that Python refuses",
        &[
            "{{ x[1:] }}",
            "{{ n[1:] }}",
            "{{ s|format(1) }}",
            "{{ '%s'|format(1, a=2) }}",
            "{{ ['a']|sum(start='') }}",
            "{{ ['b', 'a', 'B']|groupby('x')|length }}",
            "{{ people|groupby('nope') }}",
            "{{ d|dictsort(by='x') }}",
            "{{ 012 }}",
            "{% for a, in [(1,)] %}{{ a }}{% endfor %}",
            "{% for i in none %}{% endfor %}",
            "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}",
        ],
    ),
    (
        Lenient,
        "views, generators and ranges are lists, and every value can be a key",
        &[
            "{{ d.get([]) }}",
            "{{ l|reverse|tojson }}",
            "{{ [[1]]|unique|list }}",
            "{{ l|select('odd')|length }}",
            "{{ l|select('odd')|last }}",
            "{{ d.items()|tojson }}",
            "{{ range(3)|tojson }}",
            "{{ {[1]: 2} }}",
        ],
    ),
    (
        Lenient,
        "names of a namespace may begin with an underscore",
        &["{{ namespace(_a=1) }}", "{% set ns = namespace() %}{% set ns._x = 1 %}"],
    ),
    (
        Different,
        "very large and very small floats, joined with `~`",
        &["{{ tiny ~ ' ' ~ huge ~ ' ' ~ third ~ ' ' ~ [tiny, huge] }}"],
    ),
    (
        Different,
        "views, generators and ranges are lists, which can be read twice, counted and indexed",
        &[
            "{{ range(3), range(1, 4), range(0, 9, 2), range(5, 0, -1) }}",
            "{{ d.items(), d.keys(), d.values() }}",
            "{{ range(10)[2:5], range(10)[::3] }}",
            "{{ d.items()[0] }}",
            "{{ (l|select('odd'))[0] }}",
            "{{ (l|select('odd')) is sequence, (l|select('odd')) is iterable, l|select('odd') is iterable, 'T' if l|select('gt', 9) else 'F', l|select('odd')|first, l|map('string')|join }}",
            "{{ s is sequence, l is sequence, d is sequence, n is sequence, 5 is sequence, x is sequence, range(3) is sequence, d.items() is sequence, (1,) is sequence, t is sequence }}",
            "{% set g = l|select('odd') %}{% for i in g %}{{ i }}{% endfor %}|{% for i in g %}{{ i }}{% endfor %}{{ g|list }}",
            "{% set r = l|reverse %}{{ r|first }}{{ r|list }}{{ r|list }}",
            "{% for i in l %}{{ loop is defined }}{{ loop|length }}{{ loop is iterable }}{{ loop is sequence }}{{ loop is callable }}{% endfor %}{{ loop is defined }}",
        ],
    ),
    (Different, "a float can be an index", &["{{ l[1.0] }}"]),
    (
        Different,
        "methods are no values: `x.items` without a call is the key of that name or undefined",
        &[
            "{{ shadow.items is defined, shadow.items is callable, shadow['items'], shadow['items'].type, shadow['items']['type'] }}",
            "{{ shadow.items.type }}",
            "{{ d.items is defined, d.items is string, 'T' if d.items else 'F' }}",
            "{{ d is mapping, l is mapping, n is mapping, namespace() is mapping, shadow.items is mapping }}",
            "{{ s is callable, range is callable, s.upper is callable, x is callable, dict is callable, namespace is callable, cycler(1) is callable, joiner() is callable }}",
            "{% macro m(x) %}{{ x }}{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m is callable }}",
        ],
    ),
    (
        Different,
        "what is taken out of a safe string is not safe",
        &[
            r"{{ ('a'|safe).replace('a', '<'), ('a b'|safe).split(), ('a'|safe)[0], ('a\nb'|safe)|indent, ('a'|safe)|replace('a', '<'), ('x'|safe).strip(), ('x'|safe)|title, ('x'|safe)|trim }}",
        ],
    ),
    (
        Different,
        "a line's end after `raw` is trimmed",
        &[
            "{% raw %}{{ x }}{% endraw %}|{%- raw -%}  {% if %}  {%- endraw -%}  |\n  {% raw %}\n  a\n  {% endraw %}\nb",
        ],
    ),
    (
        Different,
        "namespaces print their names in alphabetical order",
        &[
            "{% set ns = namespace(t=0, seen=[]) %}{% for i in l %}{% set ns.t = ns.t + i %}{% set ns.seen = ns.seen + [i] %}{% endfor %}{{ ns.t }}{{ ns.seen }}{{ ns }}{{ ns.nope }}",
        ],
    ),
    (
        Different,
        "the condition of a loop is taken for all rounds before the first",
        &[
            "{% set ns = namespace(done=false) %}{% for i in range(5) if not ns.done %}{{ i }}{% if i == 2 %}{% set ns.done = true %}{% endif %}{% endfor %}",
        ],
    ),
    (
        Different,
        "`set` blocks have no scope of their own, and `with` sees what it has just set",
        &[
            "{% set a | upper | trim %}  body {% set inner = 1 %}{% endset %}[{{ a }}]{{ inner is defined }}",
            "{% set a = 1 %}{% with a = 2, b = a %}{{ b }}{% endwith %}",
        ],
    ),
    (Different, "`self` is undefined", &["{{ self }}"]),
];
