// NOT BUILT HERE. Keeps the call while the app is in the background: a foreground service of type "microphone".
//
// Since Android 14 it may only be started while the app is in front, with RECORD_AUDIO granted already; without it the
// system silences the microphone seconds after the app went to the background, and later stops the app altogether.

package org.example.talk

import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.Service
import android.content.Intent
import android.content.pm.ServiceInfo
import android.media.AudioManager
import android.os.Binder
import androidx.core.app.NotificationCompat
import androidx.core.app.ServiceCompat
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.launch

class TalkService : Service() {
    val lines = MutableStateFlow(listOf<String>())
    var call: RealtimeCall? = null
        private set
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.Main.immediate)

    inner class Here : Binder() {
        val service get() = this@TalkService
    }

    override fun onBind(intent: Intent?) = Here()

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val manager = getSystemService(NotificationManager::class.java)
        manager.createNotificationChannel(NotificationChannel("call", "Calls", NotificationManager.IMPORTANCE_LOW))
        val notification = NotificationCompat.Builder(this, "call")
            .setSmallIcon(android.R.drawable.stat_sys_phone_call)
            .setContentTitle("Talking with the assistant")
            .setOngoing(true)
            .build()
        ServiceCompat.startForeground(this, 1, notification, ServiceInfo.FOREGROUND_SERVICE_TYPE_MICROPHONE)
        getSystemService(AudioManager::class.java).mode = AudioManager.MODE_IN_COMMUNICATION // echo cancellation
        if (call == null) begin()
        return START_NOT_STICKY
    }

    private fun begin() {
        val made = RealtimeCall(this, "https://voice.example.org:8443/v1", key = null) { event ->
            when (event.optString("type")) {
                "conversation.item.input_audio_transcription.completed" -> tell("You: ${event.optString("transcript")}")
                "response.output_audio_transcript.done" -> tell("Assistant: ${event.optString("transcript")}")
            }
        }
        call = made
        scope.launch {
            made.state.collect { state ->
                if (state != CallState.ENDED) return@collect
                made.problem?.let { tell("$it") }
                stopSelf()
            }
        }
        scope.launch { runCatching { made.start() }.onFailure { tell("No call: $it") } }
    }

    private fun tell(line: String) {
        lines.value += line
    }

    override fun onDestroy() {
        val ended = call
        // The request outlives the service by a moment; when it does not, the closed connection tells the server.
        CoroutineScope(Dispatchers.Main.immediate).launch { ended?.hangUp() }
        scope.cancel()
        getSystemService(AudioManager::class.java).mode = AudioManager.MODE_NORMAL
        super.onDestroy()
    }
}
