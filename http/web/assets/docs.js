// The API's documentation, drawn by Swagger UI from the document that this server serves.

const place = document.getElementById("docs");

function dark(query) {
  document.documentElement.classList.toggle("dark-mode", query.matches);
}
const query = matchMedia("(prefers-color-scheme: dark)");
query.addEventListener("change", dark);
dark(query);

try {
  const answer = await fetch("/openapi.json", { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const spec = await answer.json();
  place.replaceChildren();
  window.SwaggerUIBundle({
    spec,
    domNode: place,
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    validatorUrl: null, // it would send the description to another host
    presets: [window.SwaggerUIBundle.presets.apis],
  });
} catch (error) {
  const text = document.createElement("p");
  text.className = "notice";
  text.dataset.tone = "bad";
  text.setAttribute("role", "alert");
  text.textContent = `The description could not be loaded (${error.message}). Load the page again in a moment.`;
  place.replaceChildren(text);
}
