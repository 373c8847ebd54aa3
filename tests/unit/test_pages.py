import pytest

from serving.pages import mark_code


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", ""),
        ("none", "none"),
        ("`code`", "<code>code</code>"),
        ("a `b`, `c`.", "a <code>b</code>, <code>c</code>."),
        ("<b> & `<i>&`", "&lt;b&gt; &amp; <code>&lt;i&gt;&amp;</code>"),
        ("one ` alone", "one ` alone"),
        ("\\1 `\\g<0>`", "\\1 <code>\\g&lt;0&gt;</code>"),
    ],
)
def test_code_is_marked_and_everything_is_escaped_once(text: str, want: str):
    assert str(mark_code(text)) == want
