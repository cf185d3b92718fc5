// Ask the device for a passkey, write its answer into the button's form and submit it.
const toBytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const withBytes = (list) => (list || []).map((known) => ({ ...known, id: toBytes(known.id) }));

async function create(options, alone) {
  const publicKey = {
    ...options,
    challenge: toBytes(options.challenge),
    user: { ...options.user, id: toBytes(options.user.id) },
    excludeCredentials: withBytes(options.excludeCredentials),
    authenticatorSelection: {
      ...options.authenticatorSelection,
      residentKey: alone ? "required" : "discouraged",
      requireResidentKey: alone,
      ...(alone && { userVerification: "required" }),
    },
  };
  const made = await navigator.credentials.create({ publicKey });
  const { attestationObject, clientDataJSON } = made.response;
  return answer(made, { attestationObject, clientDataJSON });
}

async function get(options) {
  const allowCredentials = withBytes(options.allowCredentials);
  const publicKey = { ...options, challenge: toBytes(options.challenge), allowCredentials };
  const found = await navigator.credentials.get({ publicKey });
  const { authenticatorData, clientDataJSON, signature, userHandle } = found.response;
  return answer(found, { authenticatorData, clientDataJSON, signature, userHandle });
}

function answer(credential, response) {
  const texts = Object.entries(response).filter(([, value]) => value).map(([name, value]) => [name, toText(value)]);
  return {
    id: credential.id,
    rawId: toText(credential.rawId),
    type: credential.type,
    response: Object.fromEntries(texts),
    clientExtensionResults: credential.getClientExtensionResults(),
  };
}

async function optionsOf(button) {
  if (button.dataset.options) return JSON.parse(button.dataset.options).publicKey;
  const asked = await fetch(button.form.action, { headers: { Accept: "application/json" } });
  if (!asked.ok) throw new Error(String(asked.status));
  return (await asked.json()).request_options.publicKey;
}

function say(button, text) {
  button.form.querySelector("[data-passkey-says]").textContent = text;
}

async function usePasskey(button) {
  const { form } = button;
  say(button, "");
  try {
    const options = await optionsOf(button);
    const alone = form.elements.passwordless?.checked || false;
    const given = button.dataset.passkey === "create" ? await create(options, alone) : await get(options);
    form.elements.credential.value = JSON.stringify(given);
    form.submit();
  } catch {
    say(button, "The passkey did not answer, or it is the wrong one. Try again.");
  }
}

for (const button of document.querySelectorAll("[data-passkey]")) {
  if (window.PublicKeyCredential) button.addEventListener("click", () => usePasskey(button));
  else {
    button.disabled = true;
    say(button, "Passkeys do not work at this address. Open the panel over https or at http://localhost.");
  }
}
