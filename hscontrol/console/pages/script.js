"use strict";
document.documentElement.classList.add("js");

// A button that copies beside each command. On a page without TLS browsers offer no clipboard, so the text is
// selected and copied the old way there.
for (const block of document.querySelectorAll(".command")) {
  const pre = block.querySelector("pre");
  const button = document.createElement("button");
  const { copy, copied } = block.dataset;
  button.type = "button";
  button.textContent = copy;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(pre);
    try {
      await navigator.clipboard.writeText(pre.textContent);
    } catch {
      document.execCommand("copy");
    }
    button.textContent = copied;
    setTimeout(() => { button.textContent = copy; }, 2000);
  });
  block.append(button);
}

// The name that is typed goes into the commands, if it is one that a user may have.
const name = document.querySelector("#user");
if (name) {
  const places = [...document.querySelectorAll("var")].map((place) => [place, place.textContent]);
  const fill = () => {
    const given = /^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,63}$/u.test(name.value);
    for (const [place, blank] of places) place.textContent = given ? name.value : blank;
  };
  name.addEventListener("input", fill);
  fill();
}

// While a machine waits, ask for its state, and show the page anew when it moved.
if (document.querySelector("[data-watch]")) {
  const ask = async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "application/json" }, cache: "no-store" });
      const { state } = await answer.json();
      if (state !== "waiting" && state !== "broken") return location.reload();
    } catch { /* the server is away for a moment */ }
    setTimeout(ask, 3000);
  };
  setTimeout(ask, 3000);
}
