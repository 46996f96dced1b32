"""MathML to TeX, construct by construct."""

# ruff: noqa: E501

import pytest
from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.mathml import clean_tex, mathml_to_tex


def tex(inner: str) -> str:
    return mathml_to_tex(LexborHTMLParser(f"<math>{inner}</math>").css_first("math"))


@pytest.mark.parametrize(
    ("mathml", "expected"),
    [
        ("<mi>x</mi><mo>=</mo><mn>1</mn>", "x=1"),
        ("<mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>", r"\frac{a}{b+1}"),
        ("<msup><mi>x</mi><mrow><mn>1</mn><mn>0</mn></mrow></msup>", "x^{10}"),
        ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "x_i^2"),
        ("<msqrt><mi>x</mi></msqrt><mroot><mi>y</mi><mn>3</mn></mroot>", r"\sqrt{x}\sqrt[3]{y}"),
        ("<msup><mi>f</mi><mo>′</mo></msup><mo>(</mo><mi>α</mi><mo>)</mo>", r"f'(\alpha)"),
        ("<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><mi>i</mi>",
         r"\sum_{i=1}^ni"),
        ("<munder><mi>lim</mi><mrow><mi>n</mi><mo>→</mo><mo>∞</mo></mrow></munder>", r"\lim_{n\rightarrow \infty}"),
        ("<mover><mi>x</mi><mo>^</mo></mover><mover><mi>AB</mi><mo>¯</mo></mover>", r"\hat{x}\overline{\mathrm{AB}}"),
        ("<mo>(</mo><mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac><mo>)</mo>", r"\binom{n}{k}"),
        ("<mo>[</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd>"
         "<mtd><mn>1</mn></mtd></mtr></mtable><mo>]</mo>", r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}"),
        ("<mfenced open='|' close='|'><mi>x</mi></mfenced>", "|x|"),
        ("<mi mathvariant='double-struck'>R</mi><mo>⊂</mo><mi>ℂ</mi>", r"\mathbb{R}\subset \mathbb{C}"),
        ("<mi>sin</mi><mo>&#x2061;</mo><mi>x</mi>", r"\sin x"),
        ("<mtext>if x_1 > 0</mtext>", r"\text{if x\_1 > 0}"),
        ("<mmultiscripts><mi>X</mi><mi>a</mi><none/><mprescripts/><mi>b</mi><mi>c</mi></mmultiscripts>", "{}_{b}^{c}X_{a}"),
        ("<mfrac><mi>a</mi></mfrac>", "a"),
        ("<mrow><mo fence='true'>(</mo><mfrac><mi>a</mi><mi>b</mi></mfrac><mo fence='true'>)</mo></mrow>",
         r"\left( \frac{a}{b} \right)"),
        ("<mo stretchy='false' fence='true'>(</mo><mi>a</mi><mo stretchy='false' fence='true'>)</mo>", "(a)"),
        ("<mrow><mo fence='true'>{</mo><mtable columnalign='left left'><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr>"
         "</mtable><mo fence='true'></mo></mrow>", r"\begin{cases} a & b \end{cases}"),
        ("<mtable columnalign='right left'><mtr><mtd><mi>x</mi></mtd><mtd><mo>=</mo><mn>1</mn></mtd></mtr></mtable>",
         r"\begin{aligned} x & =1 \end{aligned}"),
        ("<mo>(</mo><mstyle><mfrac linethickness='0px'><mi>n</mi><mi>k</mi></mfrac></mstyle><mo>)</mo>", r"\binom{n}{k}"),
        ("<mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac>", r"{n \atop k}"),
        ("<mn mathvariant='bold'>7</mn><mspace width='0.1667em'/><mo>,</mo>", r"\mathbf{7}\,,"),
        ("<mi>a</mi><mspace width='0.4em'/><mo>.</mo>", r"a\ ."),
        ("<mo>∥</mo><mi>v</mi><mo>∥</mo>", r"\|v\|"),
        ("<mtext mathvariant='bold'>so</mtext><mtext>\\emph</mtext><mi>x</mi>", r"\textbf{so}\emph x"),
        ("<msup><msup><mi>x</mi><mn>2</mn></msup><mn>3</mn></msup>", "{x^2}^3"),
    ],
)  # fmt: skip
def test_constructs(mathml: str, expected: str) -> None:
    assert tex(mathml) == expected


def test_stated_tex_wins_and_is_cleaned() -> None:
    assert tex('<mi>a</mi><annotation encoding="application/x-tex">{\\displaystyle b}</annotation>') == "b"
    assert clean_tex(r"$$ x $$") == "x" and clean_tex(r"\(y\)") == "y"
