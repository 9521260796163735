// NOT BUILT HERE. One screen around TalkService: call, mute, hang up, and what both sides say.

package org.example.talk

import android.Manifest
import android.content.ComponentName
import android.content.Intent
import android.content.ServiceConnection
import android.os.Bundle
import android.os.IBinder
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.result.contract.ActivityResultContracts.RequestPermission
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.Text
import androidx.compose.runtime.collectAsState
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue

class MainActivity : ComponentActivity() {
    private var service by mutableStateOf<TalkService?>(null)
    private val permission = registerForActivityResult(RequestPermission()) { isGranted -> if (isGranted) begin() }
    private val connection = object : ServiceConnection {
        override fun onServiceConnected(name: ComponentName, binder: IBinder) {
            service = (binder as TalkService.Here).service
        }

        override fun onServiceDisconnected(name: ComponentName) {
            service = null
        }
    }

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContent {
            val talk = service
            Column {
                Row {
                    if (talk == null) {
                        Button(onClick = { permission.launch(Manifest.permission.RECORD_AUDIO) }) { Text("Call") }
                    } else {
                        var isMuted by remember { mutableStateOf(false) }
                        Button(onClick = { isMuted = !isMuted; talk.call?.isMuted = isMuted }) {
                            Text(if (isMuted) "Unmute" else "Mute")
                        }
                        Button(onClick = ::finishCall) { Text("Hang up") }
                    }
                }
                if (talk != null) {
                    val lines by talk.lines.collectAsState()
                    LazyColumn { items(lines) { Text(it) } }
                }
            }
        }
    }

    override fun onStart() {
        super.onStart()
        service?.call?.networkChanged() // in front again: whatever happened meanwhile
    }

    private fun begin() {
        val intent = Intent(this, TalkService::class.java)
        startForegroundService(intent)
        bindService(intent, connection, BIND_AUTO_CREATE)
    }

    private fun finishCall() {
        unbindService(connection)
        stopService(Intent(this, TalkService::class.java))
        service = null
    }
}
