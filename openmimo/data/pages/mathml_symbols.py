"""What TeX calls the characters that MathML writes as themselves."""

SYMBOLS = dict(
    pair.split("=", 1)
    for pair in (
        r"α=\alpha β=\beta γ=\gamma δ=\delta ϵ=\epsilon ε=\varepsilon ζ=\zeta η=\eta θ=\theta ϑ=\vartheta ι=\iota "
        r"κ=\kappa λ=\lambda μ=\mu µ=\mu ν=\nu ξ=\xi π=\pi ϖ=\varpi ρ=\rho ϱ=\varrho σ=\sigma ς=\varsigma τ=\tau "
        r"υ=\upsilon ϕ=\phi φ=\varphi χ=\chi ψ=\psi ω=\omega Γ=\Gamma Δ=\Delta Θ=\Theta Λ=\Lambda Ξ=\Xi Π=\Pi "
        r"Σ=\Sigma Υ=\Upsilon Φ=\Phi Ψ=\Psi Ω=\Omega ℵ=\aleph ℏ=\hbar ℓ=\ell ℘=\wp ℜ=\Re ℑ=\Im ∂=\partial ∞=\infty "
        r"∅=\emptyset ∇=\nabla ∀=\forall ∃=\exists ∄=\nexists ¬=\neg ∧=\wedge ∨=\vee ∩=\cap ∪=\cup ∈=\in ∉=\notin "
        r"∋=\ni ⊂=\subset ⊃=\supset ⊆=\subseteq ⊇=\supseteq ⊄=\not\subset ⊊=\subsetneq ≤=\leq ⩽=\leqslant ≥=\geq "
        r"⩾=\geqslant ≠=\neq ≡=\equiv ≢=\not\equiv ≈=\approx ≅=\cong ≃=\simeq ∼=\sim ∝=\propto ≪=\ll ≫=\gg ≺=\prec "
        r"≻=\succ ⪯=\preceq ⪰=\succeq ⊥=\perp ∥=\| ∣=\mid ∤=\nmid ⊢=\vdash ⊨=\models ±=\pm ∓=\mp ×=\times "
        r"÷=\div ⋅=\cdot ∗=\ast ⋆=\star ∘=\circ •=\bullet ⊕=\oplus ⊗=\otimes ⊙=\odot ∑=\sum ∏=\prod ∐=\coprod "
        r"∫=\int ∬=\iint ∭=\iiint ∮=\oint ⋃=\bigcup ⋂=\bigcap ⨁=\bigoplus ⨂=\bigotimes ⋁=\bigvee ⋀=\bigwedge "
        r"←=\leftarrow →=\rightarrow ↔=\leftrightarrow ⇐=\Leftarrow ⇒=\Rightarrow ⇔=\Leftrightarrow "
        r"⟶=\longrightarrow ⟵=\longleftarrow ⟹=\Longrightarrow ⟺=\Longleftrightarrow ↦=\mapsto ⟼=\longmapsto "
        r"↑=\uparrow ↓=\downarrow ↗=\nearrow ↘=\searrow ↪=\hookrightarrow ⇝=\rightsquigarrow ⟨=\langle ⟩=\rangle "
        r"〈=\langle 〉=\rangle ⌊=\lfloor ⌋=\rfloor ⌈=\lceil ⌉=\rceil ‖=\| …=\ldots ⋯=\cdots ⋮=\vdots ⋱=\ddots ′=' "
        r"″='' ‴=''' °=^{\circ} †=\dagger ‡=\ddagger √=\surd ∠=\angle △=\triangle ∖=\setminus ∴=\therefore "
        r"∵=\because ℝ=\mathbb{R} ℂ=\mathbb{C} ℕ=\mathbb{N} ℤ=\mathbb{Z} ℚ=\mathbb{Q} ℙ=\mathbb{P} 𝔼=\mathbb{E} "
        r"−=- ∕=/ ⩵== ∶=: ≔=:= ≜=\triangleq ⊤=\top ⋉=\ltimes ⋊=\rtimes ⊣=\dashv □=\square ⋄=\diamond "
        r"∎=\blacksquare ø=\o ı=\imath ȷ=\jmath ≐=\doteq ≲=\lesssim ≳=\gtrsim"
    ).split()
)
INVISIBLE = frozenset("\u2061\u2062\u2063\u2064\u200b\u200c\u200d\ufeff")
FUNCTIONS = frozenset(
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max "
    "min Pr sec sin sinh sup tan tanh".split()
)
ACCENTS = {
    "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "¯": "bar", "ˉ": "bar", "\u0305": "bar", "_": "bar",
    "‾": "overline", "―": "overline", "→": "vec", "\u20d7": "vec", "˙": "dot", ".": "dot", "¨": "ddot", "..": "ddot",
    "ˇ": "check", "˘": "breve", "´": "acute", "`": "grave", "⏞": "overbrace", "⏟": "underbrace",
    "←": "overleftarrow", "↔": "overleftrightarrow",
}  # fmt: skip
WIDE = {"hat": "widehat", "tilde": "widetilde", "bar": "overline", "vec": "overrightarrow"}
VARIANTS = {
    "bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak", "sans-serif": "mathsf",
    "monospace": "mathtt", "bold-italic": "boldsymbol", "bold-script": "mathcal", "bold-fraktur": "mathfrak",
}  # fmt: skip
SPECIAL = {"%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$", "{": r"\{", "}": r"\}", "_": r"\_", "\\": r"\backslash"}
STYLED_BLOCKS = (  # mathematical alphanumeric symbols: first code point, command, first letter
    (0x1D400, "mathbf", "A"), (0x1D41A, "mathbf", "a"), (0x1D434, "", "A"), (0x1D44E, "", "a"),
    (0x1D468, "boldsymbol", "A"), (0x1D482, "boldsymbol", "a"),
    (0x1D49C, "mathcal", "A"), (0x1D4B6, "mathcal", "a"), (0x1D504, "mathfrak", "A"),
    (0x1D51E, "mathfrak", "a"), (0x1D538, "mathbb", "A"), (0x1D552, "mathbb", "a"), (0x1D5A0, "mathsf", "A"),
    (0x1D5BA, "mathsf", "a"), (0x1D670, "mathtt", "A"), (0x1D68A, "mathtt", "a"),
)  # fmt: skip
