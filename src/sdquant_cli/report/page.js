// Sorting, enlarging and copying. Without script the page still shows everything, worst first.
"use strict";
const cards = document.getElementById("cards");

function sortCards(metric) {
  // identical pictures have no distance: they come last; ties keep the order of the prompts
  const far = (card) => JSON.parse(card.dataset.distance)[metric] ?? -Infinity;
  const compare = (a, b) => {
    const [x, y] = metric ? [far(a), far(b)] : [0, 0];
    return x === y ? a.dataset.index - b.dataset.index : y > x ? 1 : -1;
  };
  cards.append(...[...cards.children].sort(compare));
}

const choice = document.getElementById("sort");
choice.addEventListener("change", () => sortCards(choice.value));
sortCards(choice.value); // a reloaded page keeps its choice

cards.addEventListener("click", (event) => {
  if (event.target.closest(".row")) event.target.closest(".card").classList.toggle("large");
});

document.getElementById("copy")?.addEventListener("click", async ({ target }) => {
  const commands = document.getElementById("commands");
  try {
    await navigator.clipboard.writeText(commands.textContent);
    target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(commands); // no clipboard here: Ctrl-C does it
    target.textContent = "Selected";
  }
  setTimeout(() => (target.textContent = "Copy"), 1500);
});
