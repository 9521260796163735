// `@eyevinn/whip-web-client` in a page: run({whip, whep, key}) -> report. It only sends; the reply comes through WHEP.

import { WHIPClient } from "@eyevinn/whip-web-client";
import { WHEPClient } from "whip-whep/whep.js";

import { Room } from "./browser_room.mjs";
import { Dialogue } from "./dialogue.mjs";

window.run = async (given) => {
  const dialogue = new Dialogue((name) => room.say(name));
  const room = await Room.open((samples, rate, at) => dialogue.hear(samples, rate, at));
  const whip = new WHIPClient({ endpoint: given.whip, opts: { authkey: given.key } });
  const whep = new WHEPClient();
  try {
    await whip.setIceServersFromEndpoint();
    await whip.ingest(await navigator.mediaDevices.getUserMedia({ audio: true }));
    await dialogue.until(() => whip.getICEConnectionState() === "connected", "the connection");
    const resource = new URL(await whip.getResourceUrl()).pathname;
    const hearing = new RTCPeerConnection();
    hearing.addTransceiver("audio", { direction: "recvonly" });
    await whep.view(hearing, given.whep.replace("{call_id}", resource.split("/").pop()), given.key);
    const turns = await dialogue.runBySound();
    return dialogue.report({ ...turns, resource });
  } finally {
    await whep.stop();
    await whip.destroy();
    await room.close();
  }
};
