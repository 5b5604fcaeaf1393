// Looks each name up with InetAddress, which asks the C library and keeps answers for 30 s.
// Prints one line a name: NAME took=SECONDS ADDRESS... or error=TEXT. Status 1 if any failed.

import java.net.InetAddress;
import java.net.UnknownHostException;

public class Lookup {
    public static void main(String[] names) {
        int status = 0;
        for (String name : names) {
            long started = System.nanoTime();
            StringBuilder said = new StringBuilder();
            try {
                for (InetAddress address : InetAddress.getAllByName(name)) {
                    said.append(' ').append(address.getHostAddress());
                }
            } catch (UnknownHostException error) {
                said.append(" error=").append(error.getMessage());
                status = 1;
            }
            double took = (System.nanoTime() - started) / 1e9;
            System.out.println(name + " took=" + String.format("%.6f", took) + said);
        }
        System.exit(status);
    }
}
