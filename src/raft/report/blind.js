"use strict";
(() => {
  const key = `raft-blind-${document.body.dataset.key}`;
  const byId = (id) => document.getElementById(id);
  const pairs = [...document.querySelectorAll("article[data-pair]")];
  let ratings = {};
  let keeps = true;
  // a browser may refuse storage to a page from the disk
  try {
    ratings = JSON.parse(localStorage.getItem(key)) || {};
    localStorage.setItem(key, JSON.stringify(ratings));
  } catch {
    keeps = false;
  }

  const chosenOf = (pair) => pair.querySelector("input:checked");
  const unrated = () => pairs.find((pair) => !chosenOf(pair));

  function update() {
    const count = pairs.filter(chosenOf).length;
    for (const pair of pairs) pair.classList.toggle("rated", Boolean(chosenOf(pair)));
    byId("progress").textContent = `${count} of ${pairs.length} rated`;
    byId("meter").value = count;
    byId("next").disabled = count === pairs.length;
  }

  function lines() {
    const rated = pairs.filter(chosenOf);
    return rated.map((pair) => `${JSON.stringify({ pair_id: pair.dataset.pair, choice: chosenOf(pair).value })}\n`).join("");
  }

  for (const pair of pairs) {
    const kept = ratings[pair.dataset.pair];
    for (const input of pair.querySelectorAll("input")) input.checked = input.value === kept;
    pair.addEventListener("change", () => {
      ratings[pair.dataset.pair] = chosenOf(pair).value;
      try {
        localStorage.setItem(key, JSON.stringify(ratings));
      } catch {
        keeps = false;
      }
      update();
    });
  }
  byId("next").addEventListener("click", () => {
    const pair = unrated();
    if (!pair) return;
    pair.scrollIntoView({ block: "start" });
    pair.querySelector("input").focus({ preventScroll: true });
  });
  byId("save").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([lines()], { type: "application/x-ndjson" }));
    const link = document.createElement("a");
    link.href = address;
    link.download = "ratings.jsonl";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  byId("kept").textContent = keeps
    ? "Your choices are kept in this browser until you save them."
    : "This browser keeps nothing: save your ratings before you close the page.";
  byId("bar").hidden = false;
  update();
})();
