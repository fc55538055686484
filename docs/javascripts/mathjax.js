// Read by MathJax when it starts. Only what pymdownx.arithmatex has marked is typeset.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
    processEscapes: true,
    processEnvironments: true,
    tags: "none",
  },
  svg: { fontCache: "global" },
  options: {
    ignoreHtmlClass: ".*|",
    processHtmlClass: "arithmatex",
  },
  startup: {
    pageReady: () => MathJax.startup.defaultPageReady().then(fit),
  },
};

// MathJax 3 does not break lines: a formula of a sentence that is wider than its column gets a line and a scroll bar.
function fit() {
  const formulas = [...document.querySelectorAll("span.arithmatex")];
  formulas.forEach((formula) => formula.classList.remove("wide"));
  const wide = formulas.filter((formula) => {
    const column = formula.closest("p, li, dd, div, h1, h2, h3, h4");
    return !formula.closest("table") && formula.getBoundingClientRect().width > column.clientWidth;
  });
  wide.forEach((formula) => formula.classList.add("wide"));
}

addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
