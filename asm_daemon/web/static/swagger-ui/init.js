// Starts Swagger UI on the element that names its document: <div id="swagger-ui" data-document="/openapi.json">.
// A file of its own, because the pages forbid inline scripts.
window.addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("swagger-ui");
  window.SwaggerUIBundle({
    domNode: place,
    url: place.dataset.document,
    deepLinking: true,
    docExpansion: "list",
    displayRequestDuration: true,
    // The default asks a public validator about every document it shows; nothing here leaves the machine.
    validatorUrl: null,
    // A key typed into the page is gone when the page closes.
    persistAuthorization: false,
  });
});
