"use strict";
// Texts of the corpus and of models enter the page as textContent alone: nothing here writes markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100;
  const [ID, SET, QUESTION, DOCUMENT, REFERENCES, GOLDEN, BEARING, ANSWERS] = [0, 1, 2, 3, 4, 5, 6, 7];
  const [CONDITION, ANSWER, QUOTES, F1, EXACT, ABSTAINED, SUPPORTED, WHY, SHOWN] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const titles = new Map(data.arms);
  const byId = (id) => document.getElementById(id);
  const controls = ["filter", "set", "outcome", "condition", "order", "first", "second"];
  const chosen = (id) => byId(id).value;
  const wrong = new Map();
  let saved = true;
  let matching = [];
  let shown = 0;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function fill(select, options, value) {
    select.replaceChildren(...options.map(([key, label]) => {
      const option = element("option", "", label);
      option.value = key;
      return option;
    }));
    if (value !== undefined && value !== null) select.value = value;
  }

  const times100 = (value) => (typeof value === "number" ? (100 * value).toFixed(1) : "not measured");
  const answerOf = (row, arm) => (Object.hasOwn(row[ANSWERS], arm) ? row[ANSWERS][arm] : null);

  function score(answer) {
    if (!answer) return null;
    if (answer[CONDITION] === "withheld") return answer[ABSTAINED] ? 1 : 0;
    const value = data.measure === "accuracy" ? answer[EXACT] : answer[F1];
    return typeof value === "number" ? value : null;
  }

  function gain(row) {
    const [first, second] = [score(answerOf(row, chosen("first"))), score(answerOf(row, chosen("second")))];
    return first === null || second === null ? null : first - second;
  }

  const condition = (row) => {
    const answer = answerOf(row, chosen("first")) || answerOf(row, chosen("second"));
    return answer ? answer[CONDITION] : null;
  };

  const anchor = (row) => {
    const asked = Object.values(row[ANSWERS]).map((answer) => answer[CONDITION]);
    return `q-${row[ID]}${asked.includes("withheld") ? "-withheld" : ""}`;
  };

  const outcomes = {
    "": () => true,
    better: (row) => gain(row) > 1e-9,
    worse: (row) => gain(row) < -1e-9,
    same: (row) => gain(row) !== null && Math.abs(gain(row)) <= 1e-9,
    abstained: (row) => Boolean(answerOf(row, chosen("first"))?.[ABSTAINED]),
    unsupported: (row) => answerOf(row, chosen("first"))?.[SUPPORTED] === false,
    missed: (row) => row[BEARING] === false,
  };

  function nameOutcomes() {
    const first = titles.get(chosen("first")) || "first";
    fill(byId("outcome"), [
      ["", "all"], ["better", `${first}: better`], ["worse", `${first}: worse`], ["same", "same score"],
      ["abstained", `${first}: abstained`], ["unsupported", `${first}: not supported`],
      ["missed", "search missed the text"],
    ], chosen("outcome"));
  }

  function haystack(row) {
    const said = ["first", "second"].map((side) => answerOf(row, chosen(side))?.[ANSWER] || "");
    return [row[ID], row[QUESTION], row[DOCUMENT] || "", ...row[REFERENCES], ...said].join("\n").toLowerCase();
  }

  function select() {
    const words = chosen("filter").toLowerCase().split(/\s+/).filter(Boolean);
    const fits = outcomes[chosen("outcome")] || outcomes[""];
    matching = data.rows.filter((row) => {
      if (chosen("set") && row[SET] !== chosen("set")) return false;
      if (chosen("condition") && condition(row) !== chosen("condition")) return false;
      if (!fits(row)) return false;
      if (!words.length) return true;
      const text = haystack(row);
      return words.every((word) => text.includes(word));
    });
    const direction = { up: -1, down: 1 }[chosen("order")];
    if (direction) {
      const keyed = matching.map((row) => [gain(row), row]);
      keyed.sort((a, b) => (a[0] === null) - (b[0] === null) || direction * (a[0] - b[0]));
      matching = keyed.map((pair) => pair[1]);
    }
    const linked = matching.findIndex((row) => `#${anchor(row)}` === location.hash);
    if (linked > 0) matching.unshift(...matching.splice(linked, 1));
    byId("head-first").textContent = titles.get(chosen("first")) || "";
    byId("head-second").textContent = titles.get(chosen("second")) || "";
    byId("rows").replaceChildren();
    shown = 0;
    more();
  }

  function more() {
    const next = matching.slice(shown, shown + PAGE);
    byId("rows").append(...next.map(rendered));
    shown += next.length;
    byId("more").hidden = shown >= matching.length;
    byId("more").textContent = `Show ${Math.min(PAGE, matching.length - shown)} more`;
    const total = data.rows.length.toLocaleString("en");
    byId("count").textContent = `${shown.toLocaleString("en")} of ${matching.length.toLocaleString("en")} matching questions shown, ${total} in all`;
  }

  function rendered(row) {
    const line = element("tr");
    line.setAttribute("role", "row");
    line.id = anchor(row);
    const head = element("th");
    head.scope = "row";
    head.setAttribute("role", "rowheader");
    head.append(element("div", "", row[QUESTION]));
    const facts = [row[SET], row[DOCUMENT]];
    if (condition(row) === "withheld") facts.push("asked without its text");
    if (row[BEARING] === false) facts.push("search missed the text");
    const meta = element("div", "meta", `${facts.filter(Boolean).join(" · ")} `);
    const link = element("a", "", "link");
    link.href = `#${anchor(row)}`;
    meta.append(link);
    head.append(meta, ticked(row[ID], row[QUESTION]));
    line.append(head, references(row));
    for (const side of ["first", "second"]) line.append(answerCell(row, chosen(side)));
    line.append(gainCell(row));
    return line;
  }

  function cell(label) {
    const made = element("td");
    made.setAttribute("role", "cell");
    made.dataset.label = label;
    return made;
  }

  function references(row) {
    const made = cell("References");
    for (const reference of row[REFERENCES]) made.append(element("div", "", reference));
    if (!row[REFERENCES].length) made.append(element("div", "none", "none"));
    if (row[GOLDEN]) {
      const details = element("details");
      details.append(element("summary", "", "golden text"), element("div", "golden", row[GOLDEN]));
      made.append(details);
    }
    return made;
  }

  function ticked(id, question) {
    const label = element("label", "meta");
    const box = element("input");
    box.type = "checkbox";
    box.checked = wrong.has(id);
    box.addEventListener("change", () => mark(id, question, box.checked));
    label.append(box, " the reference is wrong");
    return label;
  }

  function mark(id, question, is) {
    if (is) wrong.set(id, question);
    else wrong.delete(id);
    saved = false;
    byId("save").textContent = `Save wrong_references.jsonl (${wrong.size})`;
  }

  function passages(shown) {
    const details = element("details");
    details.append(element("summary", "", `${shown.length} passages shown`));
    details.addEventListener("toggle", () => {
      for (const id of shown) {
        const [place, text] = Object.hasOwn(data.passages, id) ? data.passages[id] : [id, ""];
        details.append(element("div", "meta", place), element("div", "golden", text));
      }
    }, { once: true });
    return details;
  }

  function answerCell(row, arm) {
    const made = cell(titles.get(arm) || "");
    const answer = answerOf(row, arm);
    if (!answer) {
      made.append(element("span", "none", "not measured"));
      return made;
    }
    const tags = element("div");
    if (answer[ABSTAINED]) tags.append(element("span", "badge", "abstained"));
    if (answer[SUPPORTED] === false) tags.append(element("span", "badge", "not supported"));
    made.append(element("div", "answer", answer[ANSWER] || "(no answer)"));
    if (tags.childNodes.length) made.append(tags);
    for (const quote of answer[QUOTES] || []) made.append(element("blockquote", "", quote));
    made.append(element("div", "figures", `F1 ${times100(answer[F1])} · exact ${times100(answer[EXACT])}`));
    if (answer[WHY]) made.append(element("div", "why", answer[WHY]));
    if (answer[SHOWN]?.length) made.append(passages(answer[SHOWN]));
    return made;
  }

  function gainCell(row) {
    const made = cell("First minus second");
    const value = gain(row);
    if (value === null) made.append(element("span", "none", "not measured"));
    else if (Math.abs(value) <= 1e-9) made.append(element("span", "", "= 0.0"));
    else made.append(element("span", value > 0 ? "up" : "down", `${value > 0 ? "▲ +" : "▼ −"}${times100(Math.abs(value))}`));
    return made;
  }

  const sets = [...new Set(data.rows.map((row) => row[SET]))];
  fill(byId("set"), [["", "all"], ...sets.map((name) => [name, name])]);
  fill(byId("condition"), [["", "either way"], ["answerable", "with documents as found"], ["withheld", "without its text"]]);
  const names = data.arms.map((arm) => arm[0]);
  const first = data.contender ?? names.find((name) => name !== data.baseline);
  fill(byId("first"), data.arms, first ?? names[0]);
  fill(byId("second"), data.arms, data.baseline ?? names.find((name) => name !== first) ?? names[0]);
  nameOutcomes();
  let waiting = 0;
  for (const id of controls) byId(id).addEventListener(id === "filter" ? "input" : "change", () => {
    if (id === "first") nameOutcomes();
    clearTimeout(waiting);
    waiting = setTimeout(select, id === "filter" ? 150 : 0);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    const last = shown;
    more();
    const row = byId("rows").children[last];
    if (row) { row.tabIndex = -1; row.focus({ preventScroll: true }); }
  });
  for (const box of document.querySelectorAll("#left-out input")) {
    const question = box.parentElement.querySelector("span").textContent;
    wrong.set(box.value, question);
    box.addEventListener("change", () => mark(box.value, question, box.checked));
  }
  byId("save").addEventListener("click", () => {
    const lines = [...wrong].map(([id, question]) => `${JSON.stringify({ question_id: id, question })}\n`);
    const link = element("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    link.download = "wrong_references.jsonl";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    saved = true;
  });
  window.addEventListener("beforeunload", (event) => {
    if (!saved) event.preventDefault();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#q-") && !byId(location.hash.slice(1))) select();
    byId(location.hash.slice(1))?.scrollIntoView();
  });
  byId("controls").hidden = byId("questions-table").hidden = byId("save").hidden = false;
  select();
  if (location.hash.startsWith("#q-")) byId(location.hash.slice(1))?.scrollIntoView();
})();
