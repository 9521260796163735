// `whip-whep` in a page: speak through WHIP, and hear through WHEP or through the same connection.
// run({whip, whep, key}) -> report; without `whep` the WHIP connection goes both ways.

import { WHEPClient } from "whip-whep/whep.js";
import { WHIPClient } from "whip-whep/whip.js";

import { Room } from "./browser_room.mjs";
import { Dialogue } from "./dialogue.mjs";

window.run = async (given) => {
  const dialogue = new Dialogue((name) => room.say(name));
  const room = await Room.open((samples, rate, at) => dialogue.hear(samples, rate, at));
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const speaking = new RTCPeerConnection();
  speaking.addTransceiver(stream.getAudioTracks()[0], { direction: given.whep ? "sendonly" : "sendrecv" });
  const whip = new WHIPClient();
  let whep = null;
  const isConnected = (peer) => dialogue.until(() => peer.connectionState === "connected", "the connection");
  try {
    await whip.publish(speaking, given.whip, given.key);
    await isConnected(speaking);
    if (given.whep) {
      const hearing = new RTCPeerConnection();
      hearing.addTransceiver("audio", { direction: "recvonly" });
      whep = new WHEPClient();
      await whep.view(hearing, given.whep.replace("{call_id}", whip.resourceURL.pathname.split("/").pop()), given.key);
      await isConnected(hearing);
    }
    let restart = null;
    if (given.restarts) {
      const before = await dialogue.until(() => ports(speaking), "a pair of candidates in use");
      await whip.restart();
      await dialogue.until(() => whip.restartIce === null, "the answer to the restart");
      const isNew = (pair) => pair !== null && pair[0] !== before[0];
      await dialogue.until(() => isNew(ports(speaking)), "a pair of candidates that was gathered anew");
      await isConnected(speaking);
      restart = { before, after: ports(speaking) };
    }
    const turns = await dialogue.runBySound();
    return dialogue.report({ ...turns, restart, resource: whip.resourceURL.pathname });
  } finally {
    await whep?.stop();
    await whip.stop();
    await room.close();
  }
};

// Local and remote port of the pair in use, null where there is none yet. Not from getStats(): it keeps what it found
// for a while, and can tell of no pair on a connection that is connected.
function ports(peer) {
  const pair = peer.getSenders()[0].transport?.iceTransport.getSelectedCandidatePair();
  return pair ? [pair.local.port, pair.remote.port] : null;
}
