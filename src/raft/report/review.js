"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const names = { sample: "sample", suspicious: "most suspicious", dropped: "dropped by the rules", evaluation: "evaluation", human: "by people", corrected: "corrected by users", wrong: "rated wrong", right: "rated right" };
  const post = { method: "POST", headers: { "content-type": "application/json" } };
  let lists = {};
  let mine = {};
  let list = "sample";
  let place = 0;
  let row = null;
  let busy = false;

  const made = (name, text, className) => {
    const element = document.createElement(name);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  async function ask(what, sent) {
    const answer = await fetch(what, sent ? { ...post, body: JSON.stringify(sent) } : {});
    if (!answer.ok) throw new Error((await answer.text()).trim() || `the server said ${answer.status}`);
    return answer.json();
  }

  function told(state) {
    if (state.lists) ({ lists, mine } = state);
    const all = made("ul", "");
    all.append(...state.said.map((line) => made("li", line)));
    byId("said").replaceChildren(all);
    const select = byId("list");
    const options = Object.keys(lists).filter((name) => lists[name].length);
    select.replaceChildren(
      ...options.map((name) => {
        const done = lists[name].filter((id) => mine[id]).length;
        const option = made("option", `${names[name]} (${done} of ${lists[name].length})`);
        option.value = name;
        option.selected = name === list;
        return option;
      }),
    );
  }

  function shut() {
    byId("reasons").hidden = true;
    byId("form").hidden = true;
    byId("reject").setAttribute("aria-expanded", "false");
    byId("problem").hidden = true;
  }

  function paint() {
    shut();
    byId("row").hidden = false;
    byId("place").textContent = `${place + 1} of ${lists[list].length}`;
    byId("question").textContent = row.question;
    byId("answer").textContent = row.answer;
    byId("about").textContent = row.reason ? `${row.kind}, dropped by the rules: ${row.reason}` : `${row.kind}, ${row.split || "kept"}`;
    byId("doubts").replaceChildren(...row.doubts.map((doubt) => made("li", doubt)));
    byId("pair").className = row.mine ? row.mine.verdict : "";
    byId("verdict").textContent = row.mine ? `You: ${row.mine.verdict}${row.mine.reason ? `, ${row.mine.reason}` : ""}` : "";
    const parts = row.sources.flatMap((source) => {
      const text = made("p", "", "source");
      for (const [piece, level] of source.pieces) {
        const lit = made(level > 1 ? "mark" : "span", "", level === 0 ? "around" : "");
        lit.append(level === 3 ? made("b", piece) : piece);
        text.append(lit);
      }
      return [made("h2", [source.document, source.page && `page ${source.page}`, source.heading].filter(Boolean).join(", ")), text];
    });
    byId("sources").replaceChildren(...(parts.length ? parts : [made("p", "No source: the documents are not to answer it.")]));
    const lit = byId("sources").querySelector("mark");
    byId("sources").scrollTop = lit ? Math.max(0, lit.offsetTop - byId("sources").clientHeight / 3) : 0;
    byId("pair").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  async function go(to) {
    if (!lists[list].length) return;
    place = Math.min(Math.max(to, 0), lists[list].length - 1);
    row = await ask(`row?id=${encodeURIComponent(lists[list][place])}`);
    paint();
  }

  async function open(name) {
    list = name;
    const first = lists[list].findIndex((id) => !mine[id]);
    await go(first < 0 ? 0 : first);
  }

  async function decide(verdict, more) {
    told(await ask("decide", { id: row.id, verdict, list, ...more }));
    const after = lists[list].findIndex((id, number) => number > place && !mine[id]);
    const first = after < 0 ? lists[list].findIndex((id) => !mine[id]) : after;
    await go(first < 0 ? place : first);
  }

  function edit() {
    shut();
    byId("form").hidden = false;
    byId("new-question").value = row.question;
    byId("new-answer").value = row.answer;
    byId("new-quote").value = row.quote;
    byId("quoted").hidden = row.sources.length !== 1;
    byId("new-question").focus();
  }

  function save() {
    const texts = { question: byId("new-question").value.trim(), answer: byId("new-answer").value.trim() };
    const quote = byId("new-quote").value.trim();
    if (quote && quote !== row.quote.trim()) texts.quote = quote;
    return decide("edited", { edit: texts });
  }

  const acts = {
    a: () => decide("approved"),
    e: edit,
    r: () => {
      const hidden = byId("reasons").hidden;
      shut();
      byId("reasons").hidden = !hidden;
      byId("reject").setAttribute("aria-expanded", String(hidden));
      if (hidden) byId("reasons").querySelector("button").focus();
    },
    u: async () => {
      const state = await ask("undo", {});
      told(state);
      const where = Object.keys(lists).find((name) => lists[name].includes(state.id));
      if (!where) return;
      if (!lists[list].includes(state.id)) list = where;
      await go(lists[list].indexOf(state.id));
      told(state);
    },
    j: () => go(place + 1),
    k: () => go(place - 1),
    l: () => {
      const filled = Object.keys(lists).filter((name) => lists[name].length);
      byId("list").value = filled[(filled.indexOf(list) + 1) % filled.length];
      return open(byId("list").value);
    },
    done: async () => {
      const { said } = await ask("done", {});
      document.body.replaceChildren(made("h1", "Thank you"), ...said.map((line) => made("p", line)), made("p", "All verdicts are saved; the page is closed.", "note"));
    },
  };
  Object.assign(acts, { n: acts.j, p: acts.k, ArrowRight: acts.j, ArrowLeft: acts.k });

  async function act(work) {
    if (busy) return;
    busy = true;
    document.body.dataset.busy = "yes";
    try {
      await work();
    } catch (error) {
      byId("problem").hidden = false;
      byId("problem").textContent = error instanceof TypeError ? "raft review has ended; what was saved is kept" : `Not saved: ${error.message}`;
    }
    busy = false;
    document.body.dataset.busy = "no";
  }

  for (const [id, key] of [["approve", "a"], ["edit", "e"], ["reject", "r"], ["undo", "u"], ["back", "k"], ["next", "j"], ["done", "done"]])
    byId(id).addEventListener("click", () => act(acts[key]));
  for (const button of byId("reasons").querySelectorAll("button"))
    button.addEventListener("click", () => act(() => decide("rejected", { reason: button.dataset.reason })));
  byId("list").addEventListener("change", () => act(() => open(byId("list").value)));
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act(save);
  });
  byId("cancel").addEventListener("click", paint);
  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches("textarea, select");
    if (event.key === "Escape" && row) return paint();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("textarea")) return act(save);
    if (writing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const reason = byId("reasons").hidden ? null : byId("reasons").querySelectorAll("button")[Number(event.key) - 1];
    const work = reason ? () => decide("rejected", { reason: reason.dataset.reason }) : acts[event.key];
    if (!work || event.key === "done") return;
    event.preventDefault();
    act(work);
  });
  act(async () => {
    const state = await ask("state");
    list = Object.keys(state.lists).find((name) => state.lists[name].length) || list;
    told(state);
    await open(list);
  });
})();
