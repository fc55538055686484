// Opens every page of the site in a frame of each width and sends what is wrong with it to the server of browser.py.
"use strict";

const PATIENCE = 20_000;
const MARGIN = 1.5; // pixels that rounding may cost

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function opened(frame, address, width) {
  frame.style.width = `${width}px`;
  const loaded = new Promise((done) => (frame.onload = done));
  frame.src = address;
  await Promise.race([loaded, sleep(PATIENCE)]);
  const view = frame.contentWindow;
  // MathJax and the figures change the widths that are measured.
  await Promise.race([view.MathJax?.startup?.promise, sleep(PATIENCE)]);
  view.document.querySelectorAll("details").forEach((closed) => (closed.open = true));
  view.document.querySelectorAll("img").forEach((picture) => (picture.loading = "eager"));
  await Promise.race([Promise.all([...view.document.images].map((p) => p.decode().catch(() => {}))), sleep(PATIENCE)]);
  await sleep(50);
  return view;
}

const shown = (element) => element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);

/** This element or the first around it, within the article, whose content goes over its edge; null if there is none. */
function clipping(element, article) {
  for (let box = element; box && box !== article; box = box.parentElement) {
    const { overflowX, display } = getComputedStyle(box);
    if (overflowX !== "visible" && display !== "inline" && box.scrollWidth - box.clientWidth > MARGIN)
      return [box, overflowX];
  }
  return [null, "visible"];
}

function cut(view, narrow) {
  const article = view.document.querySelector("article");
  if (!article) return [];
  // On a narrow screen boxes of code and tables go to the edges of the window.
  const right = narrow ? view.document.documentElement.clientWidth : article.getBoundingClientRect().right;
  const found = [];
  const tex = new Map([...(view.MathJax?.startup?.document?.math ?? [])].map((item) => [item.typesetRoot, item.math]));
  const report = (kind, what, by) => found.push({ kind, what: `${what} (${Math.round(by)} px)` });
  const kinds = {
    formula: "div.arithmatex",
    "inline formula": "span.arithmatex",
    table: "table:not(.highlighttable)",
    code: "pre > code",
    picture: "img, svg:not(mjx-container svg)",
  };
  for (const [kind, selector] of Object.entries(kinds))
    for (const element of article.querySelectorAll(selector)) {
      // A formula's own box is as wide as the page; what is drawn in it is not.
      const typeset = element.querySelector("mjx-container");
      const drawn = typeset?.querySelector("svg") ?? element;
      const box = drawn.getBoundingClientRect();
      if (!box.width) continue;
      const [around, overflow] = clipping(element, article);
      const what = tex.get(typeset) ?? (shown(element) || element.src);
      const over = around ? around.scrollWidth - around.clientWidth : box.right - right;
      if (over <= MARGIN) continue;
      if (!["auto", "scroll"].includes(overflow)) report(`${kind} is cut`, what, over);
      // A wide screen has room beside the menus, and the lines of a formula can be broken.
      else if (kind !== "code" && !narrow) report(`${kind} scrolls`, what, over);
    }
  return found;
}

function sideways(view) {
  view.scrollTo(10_000, 0);
  const by = view.scrollX;
  view.scrollTo(0, 0);
  if (!by) return [];
  const wide = [...view.document.body.querySelectorAll("*")].filter(
    (element) => element.getBoundingClientRect().right > view.document.documentElement.clientWidth + MARGIN,
  );
  const last = wide.filter((element) => ![...element.children].some((child) => wide.includes(child)));
  const names = last.slice(0, 3).map((element) => `<${element.localName} class="${element.className}"> ${shown(element)}`);
  return [{ kind: "page scrolls sideways", what: `${by} px: ${names.join("; ")}` }];
}

/** The addresses that the site's own search gives for these words, best first. */
async function searched(view, words) {
  const results = () => [...view.document.querySelectorAll(".md-search-result__item > a")].map((a) => a.href);
  const query = view.document.querySelector("[data-md-component=search-query]");
  query.focus();
  query.value = words;
  query.dispatchEvent(new view.KeyboardEvent("keyup", { bubbles: true }));
  for (let tries = 0; tries < 100 && !results().length; tries++) await sleep(50);
  return results();
}

async function main({ pages, widths, wishes }) {
  const frame = document.querySelector("iframe");
  const faults = [];
  for (const width of widths)
    for (const page of pages) {
      const view = await opened(frame, `/${page}`, width);
      const found = [...view.faults, ...sideways(view), ...cut(view, width < 1000)];
      faults.push(...found.map((fault) => ({ page, width, ...fault })));
    }
  const answers = {};
  for (const words of wishes) answers[words] = await searched(await opened(frame, "/index.html", widths[0]), words);
  return { faults, answers };
}

fetch("/.todo")
  .then((reply) => reply.json())
  .then(main)
  .catch((error) => ({ failed: String(error.stack) }))
  .then((result) => fetch("/.done", { method: "POST", body: JSON.stringify(result) }));
