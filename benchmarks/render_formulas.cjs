// TeX to markup with KaTeX and MathJax: one JSON object a line in, {tex, display}, one out, {katex, katex_mathml, chtml,
// svg, mathml}; null where a renderer refuses the formula. Run in a folder with both installed (render_formulas.py).
const { createRequire } = require("module");
const here = createRequire(process.cwd() + "/");
const katex = here("katex");
const { mathjax } = here("mathjax-full/js/mathjax.js");
const { TeX } = here("mathjax-full/js/input/tex.js");
const { CHTML } = here("mathjax-full/js/output/chtml.js");
const { SVG } = here("mathjax-full/js/output/svg.js");
const { liteAdaptor } = here("mathjax-full/js/adaptors/liteAdaptor.js");
const { RegisterHTMLHandler } = here("mathjax-full/js/handlers/html.js");
const { AssistiveMmlHandler } = here("mathjax-full/js/a11y/assistive-mml.js");
const { SerializedMmlVisitor } = here("mathjax-full/js/core/MmlTree/SerializedMmlVisitor.js");
const { STATE } = here("mathjax-full/js/core/MathItem.js");
const { AllPackages } = here("mathjax-full/js/input/tex/AllPackages.js");

const adaptor = liteAdaptor();
AssistiveMmlHandler(RegisterHTMLHandler(adaptor));
const packages = AllPackages.filter((name) => name !== "bussproofs");
const documentOf = (output) => mathjax.document("", { InputJax: new TeX({ packages }), OutputJax: output });
const chtml = documentOf(new CHTML({ fontURL: "fonts" }));
const svg = documentOf(new SVG({ fontCache: "none" }));
const visitor = new SerializedMmlVisitor();

function attempt(render) {
  try {
    const markup = render();
    return /merror|katex-error/.test(markup) ? null : markup;
  } catch (error) {
    return null;
  }
}

function rendered({ tex, display, only }) {
  const options = { displayMode: display, throwOnError: true, strict: false };
  const all = {
    katex: () => katex.renderToString(tex, options),
    katex_mathml: () => katex.renderToString(tex, { ...options, output: "mathml" }),
    chtml: () => adaptor.outerHTML(chtml.convert(tex, { display })),
    svg: () => adaptor.outerHTML(svg.convert(tex, { display })),
    mathml: () => visitor.visitTree(chtml.convert(tex, { display, end: STATE.CONVERT })),
  };
  const found = {};
  for (const name of only || Object.keys(all)) found[name] = attempt(all[name]);
  return found;
}

const readline = require("readline").createInterface({ input: process.stdin });
readline.on("line", (line) => console.log(JSON.stringify(rendered(JSON.parse(line)))));
